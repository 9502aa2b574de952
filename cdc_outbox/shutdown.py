"""Shutdown request: a flag set by the signal handler, and a pipe that wakes every wait.

A wait that includes `fileno()` in its poll ends at once when a stop is requested; Python itself restarts interrupted
waits (PEP 475), so a flag alone would be seen only when the wait is over.
"""

from __future__ import annotations

import contextlib
import os
import select
import time


class Stopped(Exception):
    """A wait ended because a stop was requested. Not an error: the caller of the wait handles it."""


class Stop:
    """The request of one process. It cannot be withdrawn."""

    __slots__ = ("_read_fd", "_write_fd", "requested_at")

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        self.requested_at: float | None = None
        """`time.monotonic()` of the first request."""

    @property
    def requested(self) -> bool:
        """Whether a stop is requested."""
        return self.requested_at is not None

    def request(self) -> None:
        """Request a stop. Safe in a signal handler and from another thread."""
        if self.requested_at is None:
            self.requested_at = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                os.write(self._write_fd, b"!")

    def fileno(self) -> int:
        """Readable from the first request on."""
        return self._read_fd

    def or_event(self) -> StopOrEvent:
        """Make an event whose wait also ends with the stop."""
        return StopOrEvent(self)

    def wait(self, seconds: float) -> bool:
        """Sleep, at most `seconds`; True as soon as a stop is requested."""
        if not self.requested and seconds > 0:
            select.select([self._read_fd], (), (), seconds)  # poll() sleeps whole milliseconds
        return self.requested


class StopOrEvent:
    """The end of work in another thread, or a stop, whichever comes first."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._read_fd, self._write_fd = os.pipe()

    def set(self) -> None:
        """Report the end of the work. Called once, by the other thread, which may outlive the waiting one."""
        with contextlib.suppress(OSError):
            os.write(self._write_fd, b"!")
        os.close(self._write_fd)

    def wait(self, seconds: float | None = None) -> None:
        """Sleep until it is done or a stop is requested, at most `seconds`."""
        poller = select.poll()
        poller.register(self._read_fd, select.POLLIN)
        poller.register(self._stop.fileno(), select.POLLIN)
        poller.poll(None if seconds is None else seconds * 1000)
        os.close(self._read_fd)
