"""Watching the catalog: what the stream itself does not tell, asked over short connections from a thread of its own.

In: the catalog state that the session began with. Out: an error that the loop raises in its next turn (`raise_findings`),
signs of a shutdown for `ServerShutdown`, and the slot's figures in the counters.
Never: a stage touched, a lock, a connection kept: a permanent one would hold up a smart shutdown.

A table that is dropped and made again under its name, or a publication that no longer has it, ends the events without any
error in the stream. A server that wants to stop asks in the stream, but a relay that reads nothing (Kafka is down) does not
hear it: only a new connection is told (57P03).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters
from cdc_outbox.errors import CdcOutboxError, ConfigurationError, NotAccepting, Unreachable
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn, WalRate, format_lsn
from cdc_outbox.postgres import connect, publication, server, slot
from cdc_outbox.relay.server_shutdown import ServerShutdown

log = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 30.0
"""Between two looks: a change is found well within a minute, at two short connections a minute."""

SECOND_LOOK_SECONDS: Final = 1.0
"""A migration may be half way, or our questions were asked at two moments of it: what is found must be so twice."""

PAUSED_WATCH_SECONDS: Final = 5.0
"""While reading is paused: then this is the only way to learn that the server wants to stop."""


class CatalogWatch:
    """One generation's watch. `running()` around the relay, `raise_findings` inside its loop."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        table_oids: dict[int, TableName],
        server_shutdown: ServerShutdown,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._table_oids = table_oids
        self._rate = WalRate()
        self._wake = threading.Event()
        self._over = False
        self._paused = False
        self._finding: CdcOutboxError | None = None
        self._server_shutdown = server_shutdown

    def raise_findings(self, paused: bool) -> None:
        """Raise what was found. `paused`: reading is."""
        if paused is not self._paused:
            self._paused = paused
            if paused:
                self._wake.set()
        if self._finding is not None:
            raise self._finding

    @contextmanager
    def running(self) -> Iterator[CatalogWatch]:
        """Watch until the end of the block."""
        threading.Thread(target=self._run, name="catalog-watch", daemon=True).start()
        try:
            yield self
        finally:
            self._over = True
            self._wake.set()

    def _run(self) -> None:
        suspected = False
        while not self._over and self._finding is None:
            try:
                self._look()
                self._server_shutdown.connection_accepted()
                suspected = False
            except NotAccepting:
                self._server_shutdown.connection_refused()
            except Unreachable as error:
                log.debug("watch.failed", error=error)
            except ConfigurationError as error:
                if suspected:
                    self._finding = error
                suspected = True
            except CdcOutboxError as error:
                log.warning("watch.failed", error=error)
            self._wake.wait(self._pause(suspected))
            self._wake.clear()

    def _pause(self, suspected: bool) -> float:
        if suspected:
            return SECOND_LOOK_SECONDS
        return PAUSED_WATCH_SECONDS if self._paused else WATCH_SECONDS

    def _look(self) -> None:
        settings = self._settings
        with connect.open_connection(settings.dsn.reveal(), lock_timeout=publication.LOCK_SECONDS) as connection:
            current = server.current_lsn(connection)
            info = slot.inspect(connection, settings.slot)
            try:
                tables = publication.find_tables(connection, settings.tables, self._table_oids, settings.publication)
                published = publication.inspect(connection, settings.publication)
                publication.require_published(
                    published, settings.publication, tables, older_slot=info is not None, own=settings.shard_filter
                )
            except ConfigurationError as error:
                error.where["lsn"] = _confirmed(info) or "unknown"
                raise
        if info is not None:
            self._note(info, current)
            slot.require_usable(info)

    def _note(self, info: slot.SlotInfo, current: Lsn) -> None:
        """Leave the slot's figures for whoever looks, also those of one that is lost."""
        self._rate.add(time.monotonic(), current)
        self._counters.slot = SlotCounters(
            active=info.active,
            wal_status=info.wal_status,
            current_lsn=current,
            restart_lsn=info.restart_lsn,
            confirmed_flush_lsn=info.confirmed_flush_lsn,
            safe_wal_bytes=info.safe_wal_bytes,
            seen_timestamp=time.time(),
            wal_bytes_per_second=self._rate.bytes_per_second,
        )


def _confirmed(info: slot.SlotInfo | None) -> str | None:
    """How far the slot is: nothing is confirmed past it while the relay stands still."""
    return format_lsn(info.confirmed_flush_lsn) if info is not None and info.confirmed_flush_lsn else None
