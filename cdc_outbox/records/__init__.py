"""An outbox event becomes a Kafka record. Pure: no input, no output, no clock.

stream_reader.py     messages of a replication stream -> transactions, events and the mappings that read them
mapping.py           one source of events (a relation, a snapshot's table, logical messages) -> its records
events.py            the columns of a relation, found once -> a reader of its rows; a row -> OutboxEvent
logical_messages.py  the content of a logical message -> the same OutboxEvent
json_members.py      the members of a JSON object, with their exact text
templates.py         topic, source and content type, with column names in braces
router.py            OutboxEvent -> KafkaRecord
plain.py             rows whose record the native plane can make, and their columns
cloudevents.py       OutboxEvent -> KafkaRecord that is a CloudEvent
"""
