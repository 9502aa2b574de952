import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;

/** Registers a customer and emits the event, in one transaction: DATABASE_URL=jdbc:postgresql:… java Register.java 42 Ada */
public final class Register {
    static void register(Connection db, String id, String name) throws SQLException {
        db.setAutoCommit(false);
        try (PreparedStatement emit = db.prepareStatement("SELECT outbox_emit(?, ?, ?, ?::json)");
                PreparedStatement insert = db.prepareStatement("INSERT INTO customers (id, name) VALUES (?, ?)")) {
            emit.setString(1, "customer");
            emit.setString(2, id);
            emit.setString(3, "CustomerRegistered");
            emit.setString(4, json(id, name)); // what your JSON library makes
            emit.execute();
            insert.setString(1, id);
            insert.setString(2, name);
            insert.executeUpdate();
            db.commit();
        } catch (SQLException refused) {
            db.rollback(); // the event too
            throw refused;
        }
    }

    static String json(String id, String name) {
        return "{\"id\":" + quoted(id) + ",\"name\":" + quoted(name) + "}";
    }

    static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    public static void main(String[] arguments) throws SQLException {
        try (Connection db = DriverManager.getConnection(System.getenv("DATABASE_URL"))) {
            register(db, arguments[0], arguments[1]);
        }
    }
}
