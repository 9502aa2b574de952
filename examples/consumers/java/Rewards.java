// Consume each event once: claim and effect in one transaction, then the offset.
package shop;

import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.util.backoff.ExponentialBackOff;

@SpringBootApplication
public class Rewards {
    private final JdbcTemplate db;

    Rewards(JdbcTemplate db) {
        this.db = db;
    }

    /** Gives ten points to an account, once for each event. */
    @Transactional
    @KafkaListener(topics = "${TOPIC}", groupId = "${GROUP}")
    public void credit(ConsumerRecord<String, byte[]> event) {
        String id = new String(event.headers().lastHeader("id").value());
        if (db.queryForObject("SELECT inbox_claim(?, ?)", Boolean.class, "rewards", id)) {
            db.update("UPDATE accounts SET points = points + 10 WHERE id = ?", event.key());
        }
    }

    /** Tries an event that fails again without end. Spring's default gives it up after ten attempts. */
    @Bean
    static DefaultErrorHandler tryAgain() {
        return new DefaultErrorHandler(new ExponentialBackOff(200, 2));
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Rewards.class, arguments);
    }
}
