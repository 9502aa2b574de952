"""Kafka, and the only importer of confluent_kafka.

settings.py   librdkafka properties: ours, the user's, and those that would break a promise
producer.py   produce with backpressure, delivery reports, failures
errors.py     librdkafka's errors become ours
"""
