"""Stands in for a producer that was abandoned, so that its threads end at once and not when its owner is freed.

In: calls. Out: nothing in flight, nothing to report. Never: an error.
"""

from __future__ import annotations


class Abandoned:
    """The part of a producer that its owner may still use."""

    def __len__(self) -> int:
        return 0

    def poll(self, seconds: float) -> int:  # noqa: ARG002
        """Serve nothing."""
        return 0

    def purge(self, *, in_flight: bool = True) -> None:
        """Discard nothing: a producer may be abandoned twice."""
