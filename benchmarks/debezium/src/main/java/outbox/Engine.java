package outbox;

import java.io.Reader;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;

import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.storage.SimpleHeaderConverter;
import org.apache.kafka.connect.storage.StringConverter;

import io.debezium.embedded.Connect;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;

/**
 * Debezium's engine with whatever its properties say (the outbox event router, for instance), and Kafka behind it.
 *
 * In: a properties file; `producer.*` is the producer's, all the rest the engine's. Out: each record as Kafka Connect would
 * write it with the string converter (bytes as they are) and its default header converter: topic, partition, key, value,
 * headers and timestamp are the source record's. A batch is marked as done when Kafka has confirmed all of it, as Debezium
 * Server does. Ends with 0 on SIGTERM, with 1 and the reason on stderr when the engine fails.
 */
public final class Engine {
    private static final String PRODUCER = "producer.";
    private static final byte[] NONE = null;

    private final StringConverter text = new StringConverter();
    private final SimpleHeaderConverter headerText = new SimpleHeaderConverter();
    private final KafkaProducer<byte[], byte[]> kafka;
    private volatile Throwable failure;

    private Engine(Properties producer) {
        text.configure(Map.of(), false);
        kafka = new KafkaProducer<>(producer, new ByteArraySerializer(), new ByteArraySerializer());
    }

    public static void main(String[] arguments) throws Exception {
        Properties engine = new Properties();
        Properties producer = new Properties();
        try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
            engine.load(file);
        }
        for (String name : List.copyOf(engine.stringPropertyNames())) {
            if (name.startsWith(PRODUCER)) {
                producer.setProperty(name.substring(PRODUCER.length()), (String) engine.remove(name));
            }
        }
        System.exit(new Engine(producer).run(engine));
    }

    private int run(Properties properties) throws Exception {
        DebeziumEngine<RecordChangeEvent<SourceRecord>> engine = DebeziumEngine
                .create(ChangeEventFormat.of(Connect.class))
                .using(properties)
                .using((success, message, error) -> {
                    if (!success) {
                        failure = error == null ? new IllegalStateException(message) : error;
                    }
                })
                .notifying(this::deliver)
                .build();
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                engine.close();
                main.join(10_000);
            } catch (Exception alreadyClosed) {
                // it ended by itself
            }
        }));
        engine.run();
        kafka.close();
        if (failure != null) {
            failure.printStackTrace();
            return 1;
        }
        return 0;
    }

    private void deliver(List<RecordChangeEvent<SourceRecord>> batch,
            DebeziumEngine.RecordCommitter<RecordChangeEvent<SourceRecord>> committer) throws InterruptedException {
        List<Future<RecordMetadata>> sent = new ArrayList<>(batch.size());
        for (RecordChangeEvent<SourceRecord> event : batch) {
            sent.add(kafka.send(produced(event.record())));
        }
        try {
            for (Future<RecordMetadata> one : sent) {
                one.get();
            }
        } catch (java.util.concurrent.ExecutionException refused) {
            throw new IllegalStateException(refused.getCause());
        }
        for (RecordChangeEvent<SourceRecord> event : batch) {
            committer.markProcessed(event);
        }
        committer.markBatchFinished();
    }

    private ProducerRecord<byte[], byte[]> produced(SourceRecord record) {
        RecordHeaders headers = new RecordHeaders();
        for (Header header : record.headers()) {
            headers.add(header.key(), headerText.fromConnectHeader(record.topic(), header.key(), header.schema(), header.value()));
        }
        byte[] key = bytes(record.topic(), record.keySchema(), record.key());
        byte[] value = bytes(record.topic(), record.valueSchema(), record.value());
        return new ProducerRecord<>(record.topic(), record.kafkaPartition(), record.timestamp(), key, value, headers);
    }

    private byte[] bytes(String topic, Schema schema, Object value) {
        if (value == null) {
            return NONE;
        }
        if (value instanceof byte[] raw) {
            return raw;
        }
        if (value instanceof ByteBuffer buffer) {
            byte[] raw = new byte[buffer.remaining()];
            buffer.duplicate().get(raw);
            return raw;
        }
        return text.fromConnectData(topic, schema, value);
    }
}
