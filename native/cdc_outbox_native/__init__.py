"""The native plane of cdc-outbox: plain rows of a replication stream become records in flight without the interpreter.

In: a libpq connection, librdkafka's properties. Out: transactions for the acknowledgement ledger, and each message that is not
plain as bytes, in order. Never: a library of its own; it calls those that psycopg and confluent-kafka have loaded.

Nothing but cdc-outbox is meant to import it. docs/design.md, "The native plane".
"""

from cdc_outbox_native._plane import KafkaFailure, Producer, Reader, Transaction, Unavailable, load, peek

__all__ = ["KafkaFailure", "Producer", "Reader", "Transaction", "Unavailable", "__version__", "load", "peek"]

__version__ = "0.1.0"
