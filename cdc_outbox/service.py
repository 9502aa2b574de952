"""A relay as a process: signals, observers, exit code.

In: `Settings`. Out: an exit code (INTERFACE section 3), log lines on stderr, an HTTP listener.
Never: a call of a stage. The relay runs in the main thread; observers read counters from threads of their own.

signal(7): TERM and INT drain and stop, a second one stops at once; USR1 logs a summary line; HUP stops as TERM does
when the terminal of the relay has closed; else it is logged as not supported. A signal after the work has no effect.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Final

import structlog

from cdc_outbox import __version__, pip_install
from cdc_outbox.commands.background_prune import BackgroundPruner
from cdc_outbox.config.cures import complete
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import CdcOutboxError, ConfigurationError, Undelivered
from cdc_outbox.kafka import native
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import librdkafka_version
from cdc_outbox.kafka.traced import TracedPublisher
from cdc_outbox.observe import Versions, http, logs, metrics, systemd
from cdc_outbox.observe.bar import Bar
from cdc_outbox.observe.history import History
from cdc_outbox.observe.slot_alarm import SlotAlarm
from cdc_outbox.observe.summary import Summary
from cdc_outbox.postgres.conninfo import libpq_version
from cdc_outbox.relay.supervisor import Supervisor
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
"""How often the observer thread runs its periodic work."""

COLLECT_AFTER_ALLOCATIONS: Final = 100_000
"""Containers allocated and not freed before a young collection: more than events in flight need, so only leaks count."""

M_MXFAST: Final = 1
"""From glibc's malloc.h, for mallopt(3): up to this size, freed blocks are kept apart in "fastbins"."""

HARD_STOP_EXIT_CODE: Final = 75
"""Stopped with events that will be sent again."""

PR_SET_DUMPABLE: Final = 4
"""From linux/prctl.h."""

LATE_SECONDS: Final = 1.0
"""Seconds after --shutdown-timeout at which the process ends itself, even if a call still waits."""


def versions(plane: native.Plane = native.PYTHON) -> Versions:
    """The versions of the running components."""
    return Versions(__version__, platform.python_version(), librdkafka_version(), libpq_version(), plane.name)


def run(settings: Settings) -> int:
    """Relay until a stop is requested. Logs the reason of the end, and returns the exit code."""
    return _process(settings, Supervisor.run)


def recover(settings: Settings, since: str | None = None) -> int:
    """Replace the slot by a new one, after sending the rows of the table; `since`: a timestamp, older rows are not sent. Logs
    the result, and returns the exit code.
    """
    return _process(replace(settings, http="off", prune_after=None), partial(Supervisor.recover, since=since))


def _process(settings: Settings, work: Callable[[Supervisor], None]) -> int:
    if not settings.core_dump:
        _forbid_core_dump()
    _calm_collector()
    calm_allocator()
    logs.configure(settings.log_format, settings.log_level, complete=partial(complete, settings=settings))
    counters = Counters()
    stop = Stop()
    try:
        with ExitStack() as stack:
            summary, history = Summary(counters), History(counters)
            alarm = SlotAlarm(counters, settings)
            ticks = (summary.tick, history.tick, Bar(counters).tick, alarm.tick, *_systemd(stack, counters, stop))
            stack.callback(logs.draw, "")
            later = stack.enter_context(_ticking(*ticks))
            stack.enter_context(_signals(stop, later, summary, settings.shutdown_timeout))
            plane = native.choose(settings)
            if settings.http != "off":
                registry = metrics.build_registry(counters, versions(plane))
                stack.enter_context(http.serve(settings.http, counters, settings, registry, history=history))
            log.info("started", **logs.started_fields(settings, versions(plane)))
            log.info("plane.chosen", plane=plane.name, reason=plane.reason)
            supervisor = Supervisor(settings, counters, stop, _publisher(stack, settings, counters, plane))
            if settings.prune_after is not None and settings.tables:
                beside = BackgroundPruner(settings, counters, stop, older_than=settings.prune_after)
                stack.enter_context(beside.running())
            work(supervisor)
    except Stopped:
        error = Undelivered("stopped before it was done", code="undelivered")
        log.warning("stopped", error=error, exit_code=error.exit_code)
        return error.exit_code
    except CdcOutboxError as error:
        counters.state = State.STOPPED
        level = log.warning if isinstance(error, Undelivered) else log.error
        level("stopped", error=error, exit_code=error.exit_code)
        return error.exit_code
    counters.state = State.STOPPED
    log.info("stopped", exit_code=0)
    return 0


Later = queue.SimpleQueue[Callable[[], None]]
"""Work that a signal handler leaves to the observer thread: a handler may have interrupted a write to the same stream."""


def _forbid_core_dump() -> None:
    """Keep the memory, which contains passwords, out of core files and from other processes of this user (prctl(2)). Without
    prctl, only the limit of a core file's size is set to 0.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _calm_collector() -> None:
    """Keep the garbage collector from scanning events in flight: they have no cycles, and imported modules stay in memory."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_ALLOCATIONS)


def calm_allocator() -> None:
    """Have glibc merge small freed blocks at once. Each record in flight has some, between large ones; kept in fastbins, they
    are merged all together each time a large one is freed, which takes as long as producing the record.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt is not None:  # musl has no such function
        mallopt(M_MXFAST, 0)


@contextmanager
def _signals(stop: Stop, later: Later, summary: Summary, shutdown_timeout: float) -> Iterator[None]:
    """Handle signals; ignore them at the end: the exit code is certain then, and a late signal must not replace it."""

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            os._exit(HARD_STOP_EXIT_CODE)
        stop.request()
        _end_late(shutdown_timeout)

    def on_summary(_number: int, _frame: FrameType | None) -> None:
        later.put(summary.log_now)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup, or a shell's trap '' HUP
    terminals = set() if ignored else _terminals()

    def on_hangup(number: int, frame: FrameType | None) -> None:
        if not terminals - _terminals():
            later.put(_hangup)
        elif not stop.requested:  # the kernel and the shell both send it when a terminal closes: that is one request
            on_stop(number, frame)

    handlers = {
        signal.SIGTERM: on_stop,
        signal.SIGINT: on_stop,
        signal.SIGUSR1: on_summary,
        signal.SIGHUP: on_hangup,
    }
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)


def _end_late(shutdown_timeout: float) -> None:
    """Make sure that a stop ends in time, even if a library call does not return."""

    def end() -> None:
        log.error("stopped", error="the stop took too long: ended by force", exit_code=HARD_STOP_EXIT_CODE)
        os._exit(HARD_STOP_EXIT_CODE)

    timer = threading.Timer(shutdown_timeout + LATE_SECONDS, end)
    timer.daemon = True
    timer.start()


def _terminals() -> set[int]:
    """Which of stdin, stdout and stderr are terminals that are open: isatty(3) denies it once a terminal has hung up."""
    return {descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)}


def _hangup() -> None:
    log.warning("hangup", error="HUP is not supported", cure="restart to read the configuration again")


Tick = Callable[[float], None]
"""Takes the monotonic clock's seconds."""


def _systemd(stack: ExitStack, counters: Counters, stop: Stop) -> list[Tick]:
    """The work that notifies systemd, if it runs the relay. It is notified of the end when `stack` closes."""
    unit = systemd.from_environment(os.environ, counters, stop)
    if unit is None:
        return []
    stack.callback(unit.end)
    return [unit.tick]


def _publisher(
    stack: ExitStack, settings: Settings, counters: Counters, plane: native.Plane
) -> Callable[..., Publisher]:
    """The factory of producers: those of the plane, or with --otel those that report deliveries, exported until `stack` closes.

    Raises ConfigurationError without the extra.
    """
    if not settings.otel:
        return native.NativePublisher if plane.name == "native" else Publisher
    try:
        from cdc_outbox.observe import telemetry  # noqa: PLC0415 - an extra, and a third of a second to load
    except ImportError as error:
        raise ConfigurationError(
            f"--otel needs packages that are not installed: {error.name}",
            code="installation",
            cure=pip_install("otel"),
        ) from error
    exports = telemetry.export(settings, metrics.RelayCollector(counters, versions(plane)))
    stack.callback(exports.shutdown)
    return partial(TracedPublisher, on_delivered=exports.delivered)


@contextmanager
def _ticking(*ticks: Tick) -> Iterator[Later]:
    """Call each of `ticks` about once a second, and the work of signal handlers, in a thread of its own."""
    later: Later = queue.SimpleQueue()
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            with contextlib.suppress(queue.Empty):
                later.get(timeout=TICK_SECONDS)()
            for each in ticks:
                each(time.monotonic())

    threading.Thread(target=tick, name="summary", daemon=True).start()
    try:
        yield later
    finally:
        done.set()
