"""Ctrl-C and TERM for commands that wait: a wish to stop, which every wait of ours notices.

In: a block of work. Out: a `Stop` that the first INT or TERM requests; a second one ends the process as if nobody had
listened. Never: work in the handler itself. Only the main thread can use it, as `signal.signal` demands.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from cdc_outbox.shutdown import Stop


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Give a `Stop` for the block; what the signals did before is put back at its end."""
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
