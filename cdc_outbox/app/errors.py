"""The one error that is ours. What the database says comes as the driver's own error, with a note that says what to do."""

from __future__ import annotations


class OutboxUsageError(Exception):
    """`emit` or `once` was called in a way that would not do what it says. Nothing was written."""
