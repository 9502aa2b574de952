"""cdc-outbox: insert a row in your transaction, get a Kafka record. At least once, in order per key, no polling."""

__version__ = "0.1.0"

DOCUMENTATION = "https://cdc-outbox.example.com"
"""Where the documentation is served: links on the status page and in the alerts begin so. Change it with your own build."""
