"""The wish to stop: a flag that a signal handler sets, and a file descriptor that wakes every wait.

A wait that includes `fileno()` in its poll ends at once when a stop is requested; Python itself restarts interrupted
waits (PEP 475), so a flag alone would be seen only when the wait is over.
"""

from __future__ import annotations

import contextlib
import os
import select
import time


class Stopped(Exception):
    """A wait ended since a stop was requested. Not an error: whoever started the wait knows what to do."""


class Stop:
    """Requested once, by anybody; never taken back."""

    __slots__ = ("_read_fd", "_write_fd", "requested_at")

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        self.requested_at: float | None = None
        """`time.monotonic()` of the first request."""

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self.requested_at is not None

    def request(self) -> None:
        """Ask. Safe in a signal handler and from another thread."""
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
            poller = select.poll()
            poller.register(self._read_fd, select.POLLIN)
            poller.poll(seconds * 1000)
        return self.requested


class StopOrEvent:
    """Something that another thread does for us, unless a stop comes first."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._read_fd, self._write_fd = os.pipe()

    def set(self) -> None:
        """It is done. Called once, by the other thread, which may be alone by then."""
        with contextlib.suppress(OSError):
            os.write(self._write_fd, b"!")
        os.close(self._write_fd)

    def wait(self) -> None:
        """Sleep until it is done or a stop is requested."""
        poller = select.poll()
        poller.register(self._read_fd, select.POLLIN)
        poller.register(self._stop.fileno(), select.POLLIN)
        poller.poll()
        os.close(self._read_fd)
