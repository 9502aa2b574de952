"""Kafka, and the only importer of confluent_kafka.

properties.py librdkafka properties: defaults, the user's, and those that are refused
producer.py   produce with backpressure, delivery reports, failures
topics.py     topics as the cluster describes them: replicas, limits, privileges
errors.py     librdkafka's errors translated to those of cdc_outbox.errors
"""
