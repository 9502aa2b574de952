"""`run --prune-after`: prunes beside a relay, from a thread of its own, over short connections.

In: settings, counters, the stop request. Out: rows deleted, counted in `Counters.pruned_rows`; log lines.
Never: an error that ends the relay, or a prune while another relay has the slot. A row is deleted only if the slot and the
relay's own acknowledgements both cover it: the slot may have been dropped and created again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from cdc_outbox.commands.prune import PruneOrder, PruneProgress, prune
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import CdcOutboxError, Undelivered
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

PAUSES_SECONDS: Final = (1.0, 600.0)
"""Between two prunes: a twentieth of the age, within these bounds. Rows are at most 5 % older than wanted, or ten minutes."""

FIRST_SECONDS: Final = 5.0
"""Longest time from the start to the first prune, so that a relay that restarts often prunes too."""

PROGRESS_SECONDS: Final = 10.0
"""Between two progress lines."""


class BackgroundPruner(PruneProgress):
    """The prune thread of one relay. It runs inside `running()`."""

    def __init__(self, settings: Settings, counters: Counters, stop: Stop, *, older_than: float) -> None:
        self._counters = counters
        self._stop = stop
        self._pause = min(max(older_than / 20, PAUSES_SECONDS[0]), PAUSES_SECONDS[1])
        self._settings = settings
        self._older_than = older_than
        self._over = threading.Event()
        self._line_at = 0.0
        self._rows = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Prune periodically until the end of the block."""
        threading.Thread(target=self._run, name="prune", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def stepped(self, table: TableName, rows: int) -> None:
        """Count the rows, and log the progress periodically."""
        self._counters.pruned_rows += rows
        self._rows += rows
        now = time.monotonic()
        if now >= self._line_at:
            self._line_at = now + PROGRESS_SECONDS
            log.info("prune.progress", table=str(table), rows=self._rows)

    def _run(self) -> None:
        pause = min(self._pause, FIRST_SECONDS)
        while not self._stop.wait(pause) and not self._over.is_set():
            if self._counters.state is not State.STREAMING:
                continue
            pause = self._pause
            try:
                self._prune()
            except Stopped:
                return
            except Undelivered as error:
                log.info("prune.late", error=error)
            except CdcOutboxError as error:
                log.warning("prune.failed", error=error)
            except Exception:
                log.exception("prune.failed", error="this is a bug in cdc-outbox; the relay is not affected")

    def _prune(self) -> None:
        settings = self._settings
        self._rows = 0
        self._line_at = time.monotonic() + PROGRESS_SECONDS
        order = PruneOrder(
            dsn=settings.dsn.reveal(),
            slot=settings.slot,
            publication=settings.publication,
            tables=settings.tables,
            older_than=self._older_than,
            age_column=settings.columns.timestamp,
            partitions_ahead=settings.partitions_ahead,
        )
        result = prune(order, self._stop, self, delivered=self._delivered)
        if result.total or result.made:
            log.info(
                "pruned",
                rows=result.total,
                held=sum(result.held.values()),
                partitions_dropped=len(result.dropped),
                partitions_made=len(result.made),
            )

    def _delivered(self, lsn: Lsn) -> bool:
        counters = self._counters
        return counters.state is State.STREAMING and counters.confirmed_lsn >= lsn
