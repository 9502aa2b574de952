// Consume each event once: claim and effect in one transaction, then the offset.
import { Kafka } from "kafkajs";
import pg from "pg";

// Give ten points to an account, once for each event.
async function credit(client, message) {
  await client.query("BEGIN");
  try {
    const claim = await client.query("SELECT inbox_claim($1, $2) AS first", [
      "rewards", message.headers.id.toString(),
    ]);
    if (claim.rows[0].first) {
      await client.query("UPDATE accounts SET points = points + 10 WHERE id = $1", [
        message.key.toString(),
      ]);
    }
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK"); // the claim too
    throw error;
  }
}

const { BROKERS, DATABASE_URL, GROUP, TOPIC } = process.env;
const pool = new pg.Pool({ connectionString: DATABASE_URL });
const kafka = new Kafka({ brokers: BROKERS.split(",") });
const consumer = kafka.consumer({
  groupId: GROUP,
  sessionTimeout: 10_000, // how long the group waits for a member that was killed
  retry: { retries: Number.MAX_SAFE_INTEGER }, // an event that fails is tried again, and the events behind it wait
});

await consumer.connect();
await consumer.subscribe({ topics: [TOPIC], fromBeginning: true });
await consumer.run({
  // The offset of a message is committed after this function has returned.
  eachMessage: async ({ message }) => {
    const client = await pool.connect();
    try {
      await credit(client, message);
    } finally {
      client.release();
    }
  },
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    await consumer.disconnect();
    await pool.end();
  });
}
