"""The library's only error. Errors of the database are raised as the driver's own, with a note that has the cure."""

from __future__ import annotations


class OutboxUsageError(Exception):
    """`emit` or `once` was called with invalid arguments or outside a suitable transaction. Nothing was written."""
