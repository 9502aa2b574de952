"""The same rows through Debezium's outbox event router, once, and through the relay, at each test: the records compared.

cases.py       tables, connector settings, our options for the same, and what is written
__main__.py    `python -m tests.parity` runs Debezium for real and writes debezium.json
debezium.json  the recording
"""
