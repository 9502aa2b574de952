"""Decides after a failed session whether the relay tries again, and when.

In: the error of an attempt, and how far the attempt came. Out: seconds to pause, a log line with the reason; or the decision to
give up.
Never: a wait. The caller waits, so that a stop ends it.
"""

from __future__ import annotations

import time
from typing import Final

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import AccessRefused, CannotConnect, CdcOutboxError, ConfigurationError, StreamGap, Unreachable
from cdc_outbox.relay.backoff import Backoff
from cdc_outbox.relay.session import History

log = structlog.get_logger(__name__)

GOOD_SECONDS: Final = 10.0
"""A session that lasted this long resets the pause between attempts."""

MADE_BY_MIGRATIONS: Final = frozenset({"table-missing", "publication-missing"})
"""Codes of errors that a first start waits out with --wait-for-table."""


MISSING_LOG_SECONDS: Final = 60.0
"""From line to line while a first start waits for the same table or publication: a migration may take an hour."""


class Retry:
    """The decisions for one relay."""

    def __init__(self, settings: Settings, history: History) -> None:
        self._settings = settings
        self._history = history
        self._backoff = Backoff()
        self._first_attempt = self._began = time.monotonic()
        self.connecting = True
        """Whether a connection is being opened: only then may a refused login pass by itself."""
        self.session_open = False
        """Whether the present attempt has its replication session: before that, every error is one of waiting."""
        self._missing_since: float | None = None
        """When a first start found for the first time that the table or the publication is missing."""
        self._logged: tuple[tuple[str, object], float] | None = None
        """Code and place of the error that was logged last, and when."""

    def begin(self) -> None:
        """Record that an attempt begins."""
        self._began = time.monotonic()
        self.connecting, self.session_open = True, False

    def heals(self, error: CdcOutboxError) -> bool:
        """Whether another attempt may cure the error."""
        if isinstance(error, Unreachable):
            limit = self._settings.startup_timeout
            return self._history.streamed or not limit or time.monotonic() - self._first_attempt < limit
        if self._is_missing(error):
            return self._table_seconds_left() > 0
        return self._history.streamed and self.connecting and isinstance(error, (AccessRefused, CannotConnect))

    def pause(self, error: CdcOutboxError) -> float:
        """Seconds to pause before the next attempt."""
        if time.monotonic() - self._began > GOOD_SECONDS:
            self._backoff.reset()
        pause = self._backoff.next()
        return min(pause, self._table_seconds_left()) if self._is_missing(error) else pause

    def log(self, error: CdcOutboxError, *, producer_lost: bool) -> None:
        """Log the error of an attempt that will be repeated."""
        about, now = (error.code, error.where), time.monotonic()
        if self._is_missing(error):
            if self._logged and self._logged[0] == about and now - self._logged[1] < MISSING_LOG_SECONDS:
                return
            log.warning("waiting", error=error, seconds=round(self._table_seconds_left()))
        elif not self.session_open:
            log.warning("waiting", error=error)
        elif producer_lost:
            log.warning("producer.failed", error=error)
        else:
            log.warning("postgres.disconnected", error=error)
        self._logged = about, now

    def _is_missing(self, error: CdcOutboxError) -> bool:
        """Whether a first start lacks what a migration creates. A slot that has missed rows (StreamGap) is no first start."""
        if self._history.streamed or isinstance(error, StreamGap) or not isinstance(error, ConfigurationError):
            return False
        return error.code in MADE_BY_MIGRATIONS

    def _table_seconds_left(self) -> float:
        """Seconds for which a first start still waits for the table, counted from the moment when it was found missing."""
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        return max(0.0, self._missing_since + self._settings.wait_for_table - now)
