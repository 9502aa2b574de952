"""Watch the catalog for changes that the stream does not show, over short connections from a thread of its own.

In: the catalog of the session. Out: an error that the loop raises in its next turn (`raise_findings`), the LSN of each look
that found nothing (`ClaimLimit`), signs of a shutdown (`ServerShutdown`), and the slot's figures in the counters.
Never: a call of a stage, a lock, a connection kept open (it would delay a smart shutdown), or an exit of the process: a finding
ends the session, and the preflight of the next one decides. A failed connection is not a finding.

When a table is dropped and created again under its name, or removed from the publication, events stop without any error in the
stream. A server that shuts down requests replies in the stream; a relay that has paused reading (Kafka is down) does not see
them, but its new connections are refused (57P03).
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
from cdc_outbox.errors import CatalogFinding, CdcOutboxError, ConfigurationError, NotAccepting, Unreachable
from cdc_outbox.lsn import Lsn, WalRate
from cdc_outbox.postgres import connect, publication, slot
from cdc_outbox.relay.catalog import Catalog
from cdc_outbox.relay.claim_limit import BLIND_SECONDS, ClaimLimit
from cdc_outbox.relay.server_shutdown import ServerShutdown

log = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 30.0
"""Between two looks: a change is found well within a minute, at two short connections a minute."""

SECOND_LOOK_SECONDS: Final = 1.0
"""Before the second look that confirms a finding: the first may have seen a migration half done, or two states of it."""

PAUSED_WATCH_SECONDS: Final = 5.0
"""Between two looks while reading is paused: then only a look shows that the server shuts down."""

LOOK_TIMEOUT_SECONDS: Final = 30.0
"""For all queries of one look."""


class CatalogWatch:
    """The watch of one session: `running()` encloses the loop, which calls `raise_findings` each turn."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        catalog: Catalog,
        claim_limit: ClaimLimit,
        server_shutdown: ServerShutdown,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._catalog = catalog
        self._claim_limit = claim_limit
        self._server_shutdown = server_shutdown
        self._rate = WalRate()
        self._over = False
        self._paused = False
        self._finding: CdcOutboxError | None = None
        self._failing_since: float | None = None

    def raise_findings(self, paused: bool) -> None:
        """Raise the finding, if there is one. `paused`: whether reading is paused."""
        if paused is not self._paused:
            self._paused = paused
            if paused:
                self._claim_limit.look_wanted.set()
        if self._finding is not None:
            raise CatalogFinding.of(self._finding)

    @contextmanager
    def running(self) -> Iterator[CatalogWatch]:
        """Watch until the end of the block."""
        threading.Thread(target=self._run, name="catalog-watch", daemon=True).start()
        try:
            yield self
        finally:
            self._over = True
            self._claim_limit.look_wanted.set()

    def _run(self) -> None:
        wanted = self._claim_limit.look_wanted
        unconfirmed = False
        while not self._over and self._finding is None:
            wanted.clear()
            unconfirmed = self._look_once(unconfirmed=unconfirmed)
            wanted.wait(self._pause(unconfirmed))

    def _look_once(self, *, unconfirmed: bool) -> bool:
        """Look once. An error becomes the finding if the look before had one (`unconfirmed`). True when this look has one."""
        found: ConfigurationError | None = None
        try:
            found = self._look()
        except NotAccepting:
            self._server_shutdown.connection_refused()
            return unconfirmed
        except CdcOutboxError as error:
            self._failed(error)
            return unconfirmed
        except Exception:
            log.exception("watch.failed", error="this is a bug in cdc-outbox; the relay goes on, and looks again")
            return unconfirmed
        self._server_shutdown.connection_accepted()
        self._failing_since = None
        if found is not None and unconfirmed:
            self._finding = found
        return found is not None

    def _failed(self, error: CdcOutboxError) -> None:
        """Log a failed look; the log limits repeats. An unreachable server is logged only after BLIND_SECONDS, while the stream
        continues; one without a free connection at once: it answers, and other sessions may keep them for long.
        """
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        lasting = now - self._failing_since > BLIND_SECONDS
        passing = isinstance(error, Unreachable) and error.code != "postgres-no-connection"
        if lasting or not passing:
            log.warning("watch.failed", error=error)

    def _pause(self, unconfirmed: bool) -> float:
        if unconfirmed:
            return SECOND_LOOK_SECONDS
        return PAUSED_WATCH_SECONDS if self._paused or self._failing_since else WATCH_SECONDS

    def _look(self) -> ConfigurationError | None:
        """Return the error that the catalog shows; None if there is none. Raises CdcOutboxError when the look itself fails."""
        dsn = self._settings.dsn.reveal()
        with connect.open_connection(
            dsn, lock_timeout=publication.LOCK_SECONDS, timeout=LOOK_TIMEOUT_SECONDS
        ) as connection:
            try:
                state = self._catalog.look(connection)
                if state.slot is not None:
                    self._note(state.slot, state.lsn)
                    slot.require_usable(state.slot)
            except ConfigurationError as error:
                return error
        if state.gap is None and not self._over:
            self._claim_limit.looked(state.lsn)
        return state.gap

    def _note(self, info: slot.SlotInfo, current: Lsn) -> None:
        """Update the slot's counters, also for a lost slot."""
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
