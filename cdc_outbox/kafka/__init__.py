"""Kafka, and the only importer of confluent_kafka.

properties.py librdkafka properties: defaults, the user's, and those that are refused
producer.py   produce with backpressure; waits, flushes, replaces the producer
reports.py    delivery reports, memory in flight, failures
topic_gate.py whether a topic can be written to
first_records.py  the first records of a producer in a partition
topics.py     topics as the cluster describes them: replicas, limits, privileges
errors.py     librdkafka's errors, their causes, and their translation to those of cdc_outbox.errors
metadata.py, reachability.py, diagnosis.py  whether the cluster answers, and why nothing is confirmed
weight.py     memory of a record, and text that librdkafka must not get
native.py, traced.py  the native plane's producer, and the one that reports sampled traces
"""
