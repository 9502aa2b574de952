"""Notifications to systemd: ready, alive, stopping, and one line for `systemctl status`.

In: `Counters`, the `Stop`, the two variables that systemd sets, and the monotonic clock as an argument. Out: datagrams
to the socket that NOTIFY_SOCKET names, a path or an abstract name. Without that variable: nothing at all.
Never: a wait (a full socket costs the message, which the next tick sends again), a thread of its own, a secret.

sd_notify(3): READY=1, WATCHDOG=1, STOPPING=1, STATUS=…; sd_watchdog_enabled(3): WATCHDOG_USEC, WATCHDOG_PID.
Alive has the meaning of `/livez` (`health.liveness`): a relay whose loop is stuck sends no WATCHDOG=1.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from cdc_outbox.counters import Counters, State
from cdc_outbox.observe.health import OK, READY_STATES, Health, health, lag_seconds, liveness, passed
from cdc_outbox.observe.mask import mask
from cdc_outbox.shutdown import Stop

STATUS_SECONDS: Final = 10.0
"""How often the line is renewed while the state stays the same: each renewal wakes every process that watches the unit."""

KEEPALIVES_PER_INTERVAL: Final = 3
"""Number of WATCHDOG=1 within WATCHDOG_USEC: the manual recommends two; a third allows for ticks of one second."""

MAX_STATUS_CHARACTERS: Final = 300
"""Of an error in the line: `systemctl status` shows one line of a terminal."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

Send = Callable[[str], bool]
"""Sends one message; returns False if it was not sent."""


class Systemd:
    """Sends notifications at each tick, about once a second."""

    def __init__(
        self,
        counters: Counters,
        stop: Stop,
        send: Send,
        *,
        wall: Callable[[], float] = time.time,
        watchdog_seconds: float | None = None,
    ) -> None:
        self._counters = counters
        self._stop = stop
        self._send = send
        self._wall = wall
        self._keepalive_every = None if watchdog_seconds is None else watchdog_seconds / KEEPALIVES_PER_INTERVAL
        self._keepalive_at = 0.0
        self._ready = False
        self._stopping = False
        self._status_at: float | None = None
        self._shown = ("", "")
        self._published = 0

    def tick(self, now: float) -> None:
        """Send what is due. `now` is the monotonic clock's, in seconds."""
        if not self._ready and self._counters.state in READY_STATES:
            self._ready = self._send("READY=1")
        if self._stop.requested and not self._stopping:
            self._stopping = self._send("STOPPING=1")
        if self._keepalive_is_due(now) and passed(liveness(self._counters, now)) and self._send("WATCHDOG=1"):
            self._keepalive_at = now
        state = State.DRAINING if self._stopping else self._counters.state
        found = health(self._counters, self._wall(), now)
        shown = (str(state), found.level)
        if self._status_at is None or shown != self._shown or now - self._status_at >= STATUS_SECONDS:
            self._send_status(shown, found, now)

    def end(self) -> None:
        """Notify that the relay is about to end, by a stop or by an error."""
        error = self._counters.last_error
        if not self._stopping:
            self._stopping = self._send("STOPPING=1")
        self._send(_one_line(f"stopped: {error}" if error else "stopped"))

    def _keepalive_is_due(self, now: float) -> bool:
        return self._keepalive_every is not None and now - self._keepalive_at >= self._keepalive_every

    def _send_status(self, shown: tuple[str, str], found: Health, now: float) -> None:
        counters = self._counters
        published = sum(topic.delivered for topic in counters.topics.copy().values())
        elapsed = 0.0 if self._status_at is None else now - self._status_at
        rate = (published - self._published) / elapsed if elapsed > 0 else 0.0
        lag = lag_seconds(counters, self._wall())
        state, level = shown
        text = f"{state}, {rate:.0f} events/s, lag {lag:.1f} s"
        if level != OK:
            text = f"{level}: {found.headline}; {text}"
        if self._send(_one_line(text)):
            self._status_at, self._shown, self._published = now, shown, published


def from_environment(environ: Mapping[str, str], counters: Counters, stop: Stop) -> Systemd | None:
    """The notifier, or None without NOTIFY_SOCKET."""
    name = environ.get("NOTIFY_SOCKET", "")
    if not name:
        return None
    return Systemd(counters, stop, _Socket(name).send, watchdog_seconds=_watchdog_seconds(environ))


class _Socket:
    """Sends one datagram per message. A failure is logged once, not once a second."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._failed = False

    def send(self, message: str) -> bool:
        """Send, without a wait."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
                datagram.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("systemd.unreachable", socket=self._name, error=str(error))
            return False
        self._failed = False
        return True


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """The watchdog interval, if systemd has set one for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        return microseconds / 1e6 if microseconds > 0 else None
    return None


def _one_line(text: str) -> str:
    """A newline would begin another assignment of the protocol."""
    return "STATUS=" + " ".join(mask(text).split())[:MAX_STATUS_CHARACTERS]
