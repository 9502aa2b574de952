"""cdc-outbox: insert a row in your transaction, get a Kafka record. At least once, in order per key, no polling."""

__version__ = "0.1.0"
