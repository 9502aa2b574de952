"""cdc-outbox: insert a row in your transaction, get a Kafka record. At least once, in order per key, no polling."""

__version__ = "0.1.0"

DOCUMENTATION = "https://cdc-outbox.example.com"
"""Base URL of the documentation, for links on the status page and in the alerts. Change it in a build of your own."""
