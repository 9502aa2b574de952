"""Kafka, and the only importer of confluent_kafka.

properties.py librdkafka properties: ours, the user's, and those that would break a promise
producer.py   produce with backpressure, delivery reports, failures
topics.py     topics as the cluster has them: copies, limits, privileges
errors.py     librdkafka's errors become ours
"""
