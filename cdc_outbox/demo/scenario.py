"""The demo's scenario: start the servers, the relay, a writer and a consumer; kill the relay half way; compare the records.

In: `Options`. Out: a live view, and an exit code: 0 if every event arrived in order, else 1.
Never: a process or a file left behind, after Ctrl-C, TERM, a closed terminal or an error; a good verdict that the
consumer's tally does not prove.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from cdc_outbox.demo.broker import EmbeddedBroker
from cdc_outbox.demo.consumer import Arrival, Reader
from cdc_outbox.demo.database import prepare
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.demo.relay import KILLED, RelayProcess
from cdc_outbox.demo.tally import Tally
from cdc_outbox.demo.text import after, before, following, kept
from cdc_outbox.demo.verdict import judge
from cdc_outbox.demo.view import Picture, View, open_view, print_line
from cdc_outbox.demo.writer import Shop
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import connect, server, slot

SLOT: Final = "cdc_outbox"

TICK_SECONDS: Final = 0.05
"""Between two checks of all processes."""

ASK_SECONDS: Final = 0.25
"""Between two reads of the slot."""

RATE_SECONDS: Final = 2.0
"""The rate is that of the last two seconds."""

FIRST_SECONDS: Final = 60.0
"""For the first record: the relay makes its slot, the broker its topics. It takes about two."""

DOWN_SECONDS: Final = 2.5
"""Time without a relay: long enough to show the backlog growing."""

DRAIN_SECONDS: Final = 30.0
"""Limit without a delivery while events are outstanding."""

OVERHEAD_SECONDS: Final = 6.0
"""Start and stop of the servers: the demo takes this much longer than `seconds`."""


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds`: how long the writer runs. `rate`: its transactions per second."""

    seconds: float
    rate: float
    keep: bool
    postgres_bin: Path | None


def run(options: Options) -> int:
    """Run the scenario. Raises ConfigurationError for a server that cannot be started, CdcOutboxError for one that ended."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names of customers are not ASCII; some terminals are
    print_line(before(options.seconds + OVERHEAD_SECONDS))
    with _leaving_on_signals(), ExitStack() as processes:
        try:
            with open_view() as view:
                scenario = Scenario(options, view, processes)
                scenario.start()
                scenario.kill_and_restart()
                scenario.finish()
            verdict = judge(scenario.tally)
            print_line(after(verdict))
            if options.keep:
                with suppress(KeyboardInterrupt):
                    scenario.stay_up()
            elif verdict.good:
                print_line(following(_program()))
        finally:
            _ignore_signals()
    return 0 if verdict.good else 1


class Scenario:
    """All processes of the demo; `processes` stops them in reverse order of their start."""

    def __init__(self, options: Options, view: View, processes: ExitStack) -> None:
        self.tally = Tally()
        self._options = options
        self._view = view
        self._processes = processes
        self._arrivals: deque[Arrival] = deque(maxlen=1000)
        self._asked_at = 0.0
        self._confirmed: Lsn | None = None
        self._behind = 0
        self._past: deque[tuple[float, int]] = deque()

    # -- the phases

    def start(self) -> None:
        """Start the servers, the relay, the writer and the consumer; return with the first record."""
        options, processes, log = self._options, self._processes, self._view.log
        log("starting PostgreSQL")
        self._postgres = postgres = EmbeddedPostgres(bin_dir=options.postgres_bin)
        processes.callback(postgres.close)
        postgres.start()
        log(f"PostgreSQL {postgres.version} listens on port {postgres.port}; starting Kafka")
        self._broker = processes.enter_context(EmbeddedBroker())
        log(f"Kafka (librdkafka's mock cluster) listens on {self._broker.brokers}")
        self._logins = prepare(postgres, log)
        self._monitor = processes.enter_context(connect.open_connection(self._logins.admin))
        self._relay = RelayProcess(self._logins.relay, self._broker.brokers)
        processes.callback(self._relay.close)
        self._relay.start()
        self._reader = Reader(self._broker.brokers, self.tally, self._arrivals.append)
        processes.callback(self._reader.stop)
        self._reader.start()
        self._shop = Shop(self._logins.shop, self.tally, options.rate)
        processes.callback(self._shop.close)
        self._shop.open()
        log(f"the shop is open, and the relay has started, as pid {self._relay.pid}")
        self._wait_for_the_first()

    def kill_and_restart(self) -> None:
        """Write for half of the time, kill the relay, start it again, and write for the other half."""
        half = self._options.seconds / 2
        self._watch(half)
        log = self._view.log
        log(f"kill -9 {self._relay.pid}: the relay is killed; the shop goes on writing")
        self._relay.kill()
        self._watch(min(DOWN_SECONDS, half))
        self._relay.start()
        log(f"started again, as pid {self._relay.pid}: it continues at the slot's position")
        self._watch(max(0.0, half - DOWN_SECONDS))

    def finish(self) -> None:
        """Stop the writer, wait for its last event, and stop the relay unless it is kept."""
        log = self._view.log
        log("the shop is closed; waiting for its last events")
        self._shop.close()
        self._wait_for_the_last()
        if not self._options.keep:
            self._relay.stop()
            log("SIGTERM: the relay has confirmed everything and ended with 0")
        if not self._reader.read_to_end(DRAIN_SECONDS):
            self._check()
            raise CdcOutboxError("the consumer did not come to the end of its topics")
        self._view.show(self._picture_now())

    def stay_up(self) -> NoReturn:
        """Print what arrives, until Ctrl-C."""
        print_line(kept(_program(), self._logins.admin, self._broker.brokers, self._relay.http))
        self._arrivals.clear()
        while True:
            self._check()
            while self._arrivals:
                print_line(f"  {self._arrivals.popleft()}")
            time.sleep(TICK_SECONDS)

    # -- watching

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._tick()

    def _wait_for_the_first(self) -> None:
        until = time.monotonic() + FIRST_SECONDS
        while not self._arrivals:
            self._tick()
            if time.monotonic() > until:
                raise CdcOutboxError(f"no record came within {FIRST_SECONDS:.0f} s")
        self._view.log(f"the first record is here: {self._arrivals[0].in_full()}")

    def _wait_for_the_last(self) -> None:
        delivered, since = self.tally.delivered, time.monotonic()
        while self.tally.waiting:
            self._tick()
            if self.tally.delivered > delivered:
                delivered, since = self.tally.delivered, time.monotonic()
            elif time.monotonic() - since > DRAIN_SECONDS:
                self._view.log(f"{self.tally.waiting} events did not arrive")
                return

    def _tick(self) -> None:
        self._check()
        self._view.show(self._picture_now())
        time.sleep(TICK_SECONDS)

    def _check(self) -> None:
        """Raise the error of a process that ended early."""
        if not self._postgres.running:
            raise CdcOutboxError("PostgreSQL ended by itself")
        if not self._broker.running:
            raise CdcOutboxError("the embedded Kafka ended by itself")
        self._relay.check()
        for name, error in (("shop", self._shop.error), ("consumer", self._reader.error)):
            if error is not None:
                raise CdcOutboxError(f"the {name} cannot go on: {error}") from error

    def _picture_now(self) -> Picture:
        now, tally = time.monotonic(), self.tally
        if now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._ask_postgres()
            self._past.append((now, tally.delivered))
            while now - self._past[0][0] > RATE_SECONDS:
                self._past.popleft()
        began, before_that = self._past[0]
        return Picture(
            committed=len(tally.committed),
            delivered=tally.delivered,
            waiting=tally.waiting,
            oldest=tally.oldest_waiting(),
            rate=(tally.delivered - before_that) / max(now - began, ASK_SECONDS),
            duplicates=tally.duplicates,
            rolled_back=len(tally.rolled_back),
            confirmed=self._confirmed,
            behind=self._behind,
            relay=self._relay.state,
            relay_up=self._relay.state != KILLED,
            latest=str(self._arrivals[-1]) if self._arrivals else "",
        )

    def _ask_postgres(self) -> None:
        info = slot.inspect(self._monitor, SLOT)
        if info is not None and info.confirmed_flush_lsn is not None:
            self._confirmed = info.confirmed_flush_lsn
            self._behind = max(0, server.current_lsn(self._monitor) - info.confirmed_flush_lsn)


_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """On TERM and HUP, stop all processes and end, as on Ctrl-C."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before_us = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGINT)}
    for number in _ENDING:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before_us.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """Stopping the processes takes a second or two and must not be interrupted."""
    for number in (*_ENDING, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _program() -> str:
    """The command that starts this program again."""
    ours = Path(sys.argv[0])
    if ours.name != "cdc-outbox":
        return f"{shlex.quote(sys.executable)} -m cdc_outbox"
    found = shutil.which("cdc-outbox")
    if found is not None and Path(found).samefile(ours):
        return "cdc-outbox"
    here = Path.cwd()
    return shlex.quote(str(ours.relative_to(here) if ours.is_relative_to(here) else ours))
