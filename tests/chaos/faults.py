"""Faults, carried out: what each kind does, how long, and how it is undone.

In: a schedule, the stage, the relays. Out: things broken and healed at their times, and a line for each.
Never: two faults of one mapping at a time. One thread a mapping; when a fault takes longer than planned (a busy machine, a slow
restart), the next one of its mapping is late, and the journal says so.

The only sleeps are the schedule's: until a fault is due, and as long as it lasts.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import psycopg

from tests.servers.proxy import Direction

if TYPE_CHECKING:
    from cdc_outbox.demo.postgres import StopMode
    from tests.chaos.journal import Journal
    from tests.chaos.relays import Relays
    from tests.chaos.schedule import Fault
    from tests.chaos.stage import Scene
    from tests.servers.proxy import Proxy

SHUTDOWN_PATIENCE_SECONDS: Final = 20.0
"""For a fast shutdown of PostgreSQL: what a relay with a dead Kafka may grant itself (10 s), or what a walsender takes whose
relay is frozen (3 s), on a busy machine. Longer is a finding."""

_DIRECTIONS: Final = {
    "both ways": tuple(Direction),
    "to server": (Direction.TO_SERVER,),
    "to client": (Direction.TO_CLIENT,),
}

Carry: TypeAlias = Callable[["Faults", "Fault"], None]


class Faults:
    """The faults of one seed: `start()`, then `join()`."""

    def __init__(self, faults: tuple[Fault, ...], scene: Scene, relays: Relays, journal: Journal) -> None:
        self.scene, self.stage, self.relays, self.journal = scene, scene.stage, relays, journal
        self.done: list[str] = []
        """Names of the kinds carried out."""
        self.shutdown_seconds: list[float] = []
        """What each fast shutdown of PostgreSQL took."""
        self._began = 0.0
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        mappings = {fault.mapping for fault in faults}
        self._threads = [
            threading.Thread(
                target=self._run,
                name=mapping,
                args=[[fault for fault in faults if fault.mapping == mapping]],
                daemon=True,
            )
            for mapping in sorted(mappings)
        ]

    def start(self) -> None:
        """From now on the schedule's times count."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        """Whether everything is done and undone."""
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Raise what stood in the way of a fault, if anything did."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def cancel(self) -> None:
        """Nothing more; what is on is undone."""
        self._stop.set()

    def last(self, fault: Fault) -> None:
        """Let it last as long as the schedule says."""
        self._stop.wait(fault.seconds)

    def _run(self, faults: list[Fault]) -> None:
        try:
            for fault in faults:
                if self._stop.wait(self._began + fault.at - time.monotonic()):
                    return
                late = time.monotonic() - self._began - fault.at
                self.journal.note(f"{fault}{f', {late:.1f} s late' if late > 0.5 else ''}")
                CARRY[fault.kind.name](self, fault)
                self.done.append(fault.kind.name)
                self.journal.note(f"{fault.kind.name} is over")
        except BaseException as error:  # noqa: BLE001  (join raises it)
            self.journal.note(f"could not carry out: {type(error).__name__}: {error}")
            self._errors.append(error)


# -- the relay


def _kill(faults: Faults, fault: Fault) -> None:
    faults.relays.kill(fault.relay)
    faults.last(fault)
    faults.relays.start(fault.relay)


def _term(faults: Faults, fault: Fault) -> None:
    faults.relays.term(fault.relay)
    faults.last(fault)
    faults.relays.start(fault.relay)


def _freeze_relay(faults: Faults, fault: Fault) -> None:
    faults.relays.freeze(fault.relay)
    faults.last(fault)
    faults.relays.thaw(fault.relay)


# -- PostgreSQL


def _terminate_walsender(faults: Faults, _fault: Fault) -> None:
    query = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = %s AND active"
    with contextlib.suppress(psycopg.OperationalError):  # it is just now recovering from something else
        (count,) = faults.scene.database.execute(query, [faults.scene.slot])[0]
        faults.journal.note(f"terminated {count} walsenders")


def _checkpoint(faults: Faults, _fault: Fault) -> None:
    faults.scene.database.execute("CHECKPOINT")


def _publish_more(faults: Faults, fault: Fault) -> None:
    """Another table is published too, and then no more: rows of the outbox are published all the while."""
    with contextlib.suppress(psycopg.OperationalError):  # it is just now recovering from something else
        faults.scene.database.execute("ALTER PUBLICATION cdc_outbox ADD TABLE business")
        faults.last(fault)
    with contextlib.suppress(psycopg.OperationalError):
        faults.scene.database.execute(
            "DO $$ BEGIN ALTER PUBLICATION cdc_outbox DROP TABLE business; EXCEPTION WHEN undefined_object THEN NULL; END $$"
        )


def _restart(mode: StopMode) -> Carry:
    def restart(faults: Faults, fault: Fault) -> None:
        postgres, began = faults.stage.postgres, time.monotonic()
        try:
            postgres.stop(mode, timeout=SHUTDOWN_PATIENCE_SECONDS)
        except TimeoutError:
            faults.journal.finding(f"a {mode} shutdown of PostgreSQL is held up for {SHUTDOWN_PATIENCE_SECONDS:g} s")
            postgres.kill()
        took = time.monotonic() - began
        faults.journal.note(f"PostgreSQL is down after {took:.1f} s ({mode})")
        if mode == "fast":
            faults.shutdown_seconds.append(took)
        faults.last(fault)
        postgres.start()

    return restart


def _kill_postgres(faults: Faults, fault: Fault) -> None:
    faults.stage.postgres.kill()
    faults.last(fault)
    faults.stage.postgres.start()


# -- Kafka


def _restart_kafka(faults: Faults, fault: Fault) -> None:
    faults.stage.one_broker.stop()
    faults.last(fault)
    faults.stage.one_broker.start()


def _kill_kafka(faults: Faults, fault: Fault) -> None:
    faults.stage.one_broker.kill()
    faults.last(fault)
    faults.stage.one_broker.start()


def _pause_kafka(faults: Faults, fault: Fault) -> None:
    faults.stage.one_broker.pause()
    faults.last(fault)
    faults.stage.one_broker.resume()


# -- one or two of three brokers


def _away(act: str, *, all_but: bool = False) -> Carry:
    """`act` of `ThreeBrokers` on the chosen broker; `all_but`: on the two others."""

    def carry(faults: Faults, fault: Fault) -> None:
        cluster, chosen = faults.stage.three_brokers, int(fault.choice)
        nodes = [node for node in cluster.nodes if (node == chosen) is not all_but]
        getattr(cluster, act)(*nodes)
        faults.last(fault)
        cluster.bring_back(*nodes)

    return carry


# -- the network


def _proxy(faults: Faults, fault: Fault) -> Proxy:
    proxy = faults.stage.kafka_proxy if fault.mapping == "network.kafka" else faults.stage.postgres_proxy
    assert proxy is not None, "only one broker has a proxy"
    return proxy


def _cut(faults: Faults, fault: Fault) -> None:
    how: Literal["reset", "close"] = "close" if fault.choice == "close" else "reset"
    _proxy(faults, fault).cut(how=how)


def _cut_in_message(faults: Faults, fault: Fault) -> None:
    (direction,) = _DIRECTIONS[fault.choice]
    _proxy(faults, fault).cut_after(int(fault.amount), direction)
    faults.last(fault)


def _half_open(faults: Faults, fault: Fault) -> None:
    gone: Literal["client", "server"] = "client" if fault.choice == "client" else "server"
    _proxy(faults, fault).half_open(gone=gone)


@contextmanager
def _refused(proxy: Proxy, _fault: Fault) -> Iterator[None]:
    proxy.refuse()
    yield
    proxy.accept()


@contextmanager
def _frozen(proxy: Proxy, fault: Fault) -> Iterator[None]:
    proxy.freeze(*_DIRECTIONS[fault.choice])
    yield
    proxy.thaw()


@contextmanager
def _delayed(proxy: Proxy, fault: Fault) -> Iterator[None]:
    proxy.delay(fault.amount)
    yield
    proxy.delay(0.0)


@contextmanager
def _forgetful(proxy: Proxy, fault: Fault) -> Iterator[None]:
    proxy.forget_idle(fault.amount)
    yield
    proxy.forget_idle()


def _during(state: Callable[[Proxy, Fault], contextlib.AbstractContextManager[None]]) -> Carry:
    def carry(faults: Faults, fault: Fault) -> None:
        with state(_proxy(faults, fault), fault):
            faults.last(fault)

    return carry


_NETWORK: Final[dict[str, Carry]] = {
    "cut": _cut,
    "cut-in-message": _cut_in_message,
    "half-open": _half_open,
    "refuse": _during(_refused),
    "freeze": _during(_frozen),
    "delay": _during(_delayed),
    "forget": _during(_forgetful),
}

CARRY: Final[dict[str, Carry]] = {
    "relay.kill": _kill,
    "relay.term": _term,
    "relay.freeze": _freeze_relay,
    "postgres.terminate-walsender": _terminate_walsender,
    "postgres.checkpoint": _checkpoint,
    "postgres.publish-more": _publish_more,
    "postgres.restart-fast": _restart("fast"),
    "postgres.restart-immediate": _restart("immediate"),
    "postgres.kill": _kill_postgres,
    "kafka.restart": _restart_kafka,
    "kafka.kill": _kill_kafka,
    "kafka.pause": _pause_kafka,
    "cluster.kill": _away("kill"),
    "cluster.stop": _away("stop"),
    "cluster.freeze": _away("pause"),
    "cluster.two-away": _away("kill", all_but=True),
    **{f"network.{server}.{name}": act for server in ("postgres", "kafka") for name, act in _NETWORK.items()},
}
"""What each kind of `schedule.KINDS` and `schedule.CLUSTER_KINDS` does."""
