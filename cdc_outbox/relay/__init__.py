"""The relay: from a connection to its last acknowledgement.

In: settings and the shutdown request. Out: records in Kafka, and the flush LSN reported to PostgreSQL.
Never: a lock on the path of an event, or a position carried from one connection to the next.
"""
