"""`outbox_status`."""
