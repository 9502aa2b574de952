"""Metadata requests of a producer: at the start until a broker answers, and while no broker can be reached.

In: the request, as `Producer.list_topics`; the state of the connection. Out: the answer, noted there; CdcOutboxError.
Never: a record; a request that takes longer than METADATA_SLICE_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from confluent_kafka import KafkaException

from cdc_outbox.errors import CdcOutboxError, Unreachable
from cdc_outbox.kafka.reachability import Reachability

METADATA_SECONDS: Final = 2.0
"""One attempt to get metadata from a broker: long enough for a TLS handshake, short enough to notice a stop."""

METADATA_SLICE_SECONDS: Final = 0.25
"""One metadata request within it. Between two, a refusal by a broker is noticed, which ends the attempt."""

LOOK_SECONDS: Final = 2.0
"""Between two metadata requests while no broker can be reached."""

METADATA_PAUSE_SECONDS: Final = 0.05
"""Between two metadata requests that fail at once."""


class Request(Protocol):
    """Requests metadata of the cluster. Raises KafkaException."""

    def __call__(self, *, timeout: float) -> object:
        """`timeout` in seconds."""


def reach(
    request: Request,
    serve: Callable[[float], None],
    reachability: Reachability,
    error_of: Callable[[BaseException], CdcOutboxError],
) -> None:
    """Get metadata from the cluster once. `serve` calls the producer's callbacks for some seconds; `error_of` translates.

    Raises Unreachable (retry), AccessRefused or ConfigurationError (final).
    """
    until = time.monotonic() + METADATA_SECONDS
    while True:
        try:
            request(timeout=METADATA_SLICE_SECONDS)
            break
        except KafkaException as raised:
            serve(METADATA_PAUSE_SECONDS)
            late = time.monotonic() >= until
            refusal = reachability.refusal
            if refusal is not None and (late or reachability.all_down):  # another broker may accept the login
                raise refusal from raised
            error = error_of(raised)
            if not isinstance(error, Unreachable):
                raise error from raised
            if late:
                raise reachability.error from raised
    reachability.answered()


class Lookout:
    """While no broker can be reached, requests metadata every LOOK_SECONDS: without records in flight, nothing else shows that
    a broker can be reached again.
    """

    def __init__(self, reachability: Reachability) -> None:
        self._reachability = reachability
        self._look_at: float | None = None
        """Time of the next request, as of time.monotonic()."""
        self._delivered_before = 0

    def look(self, request: Request, delivered: int) -> None:
        """Request metadata if it is time. `delivered`: bytes that Kafka has confirmed so far, which is an answer too."""
        now = time.monotonic()
        if self._look_at is None:
            self._look_at, self._delivered_before = now + LOOK_SECONDS, delivered
            return
        if delivered == self._delivered_before:
            if now < self._look_at:
                return
            self._look_at = now + LOOK_SECONDS
            try:
                request(timeout=METADATA_PAUSE_SECONDS)
            except KafkaException:
                return
        self._look_at = None
        self._reachability.answered()
