// Registers a customer and emits the event, in one transaction: DATABASE_URL=… node register.js 42 Ada
import pg from "pg";

async function register(client, id, name) {
  await client.query("BEGIN");
  try {
    await client.query("SELECT outbox_emit($1, $2, $3, $4)", [
      "customer", id, "CustomerRegistered", JSON.stringify({ id, name }),
    ]);
    await client.query("INSERT INTO customers (id, name) VALUES ($1, $2)", [id, name]);
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK"); // the event too
    throw error;
  }
}

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  await register(client, process.argv[2], process.argv[3]);
} finally {
  await client.end();
}
