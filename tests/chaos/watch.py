"""What is seen from outside while faults happen: how far the slot is confirmed, and when.

In: a database, a slot. Out: samples of `confirmed_flush_lsn`, each with a time at or after which the server said so.
Never: anything through the proxy, or from the relay.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import psycopg

from tests.chaos.stage import now

if TYPE_CHECKING:
    from tests.plugins.postgres import Database, Row

SAMPLE_SECONDS: Final = 0.03
"""Between two looks: less than what the relay leaves between two status updates."""

RECONNECT_SECONDS: Final = 0.1

_QUERY: Final = "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"


class Sample(NamedTuple):
    """At `time` (Unix milliseconds) at the latest, everything below `confirmed` was confirmed."""

    time: float
    confirmed: int


class Watch:
    """A thread that samples until it is stopped."""

    def __init__(self, database: Database, slot: str) -> None:
        self.samples: list[Sample] = []
        self.error: BaseException | None = None
        self._database = database
        self._slot = slot
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def confirmed(self) -> int:
        """The last sample; 0 before there is a slot. Raises what the thread met."""
        if self.error is not None:
            raise self.error
        return self.samples[-1].confirmed if self.samples else 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with psycopg.connect(self._database.dsn, autocommit=True, connect_timeout=5) as connection:
                        self._sample(connection)
                except psycopg.OperationalError:  # the server is down: one of the faults
                    self._stop.wait(RECONNECT_SECONDS)
        except BaseException as error:  # noqa: BLE001  (told to whoever asks)
            self.error = error

    def _sample(self, connection: psycopg.Connection[Row]) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            row = connection.execute(_QUERY, [self._slot]).fetchone()
            if row is not None and row[0] is not None:
                self.samples.append(Sample(now(), int(row[0])))
