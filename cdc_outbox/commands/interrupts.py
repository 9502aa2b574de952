"""Ctrl-C and TERM in commands that wait: a stop request, which ends every wait.

In: a block of work. Out: a `Stop` that the first INT or TERM requests; a second one has the
signal's default effect. Never: work in the handler itself. Only the main thread can use it, as `signal.signal` demands.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from cdc_outbox.shutdown import Stop


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Give a `Stop` for the block; the previous signal handlers are restored at its end."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.request()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()
