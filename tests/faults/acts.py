"""Acts that several fault tests share: on the walsender, on the load, and at the end, when all is judged."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import make_conninfo

from tests.plugins.oracle import Verdict, Witness, Writers, judge
from tests.plugins.outbox import SLOT, event_id
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.daemon import LogLine, Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database
    from tests.servers.proxy import Proxy

QUICK_RECONNECT: Final = ("-X", "reconnect.backoff.max.ms=200")
"""librdkafka waits up to ten seconds before it tries a broker again; a test that brings one back need not."""

UNANSWERED: Final = 4
"""Events that reach a broker which gives no answer, in however many requests: librdkafka has five on their way at most."""

STATUS_BYTES: Final = 39
"""A standby status update on the wire: CopyData's 5 bytes and 34 of its own (manual, 54.4)."""


def through(proxy: Proxy, dsn: str, *, wal_sender_timeout: float = 0.0, connect_timeout: int = 2) -> str:
    """`dsn` by way of a proxy. `wal_sender_timeout`, in seconds, for the relay's sessions: a role may choose its own."""
    chosen = {"options": f"-c wal_sender_timeout={int(wal_sender_timeout * 1000)}ms"} if wal_sender_timeout else {}
    return make_conninfo(dsn, port=proxy.port, connect_timeout=connect_timeout, sslmode="disable", **chosen)


def down(kafka: KafkaCluster) -> None:
    """No broker answers any more: connections are reset, new ones refused."""
    assert kafka.proxy is not None
    kafka.proxy.refuse()


def up(kafka: KafkaCluster) -> None:
    """After `down`."""
    assert kafka.proxy is not None
    kafka.proxy.accept()


def terminate_walsender(database: Database) -> None:
    """Wait for somebody to stream from the slot, and end his server process."""

    def ended() -> bool:
        query = (
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s AND active"
        )
        return database.execute(query, [SLOT]) == [(True,)]

    eventually(ended, "a walsender is there to be terminated")


def slot_is_free(outbox: Outbox) -> bool:
    """Whether nobody streams from the slot."""
    slot = outbox.slot()
    return slot is not None and not slot["active"]


def confirmed(outbox: Outbox) -> int:
    """The slot's confirmed flush LSN, as a number."""
    query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = %s"
    return int(outbox.database.execute(query, [SLOT])[0][0])


def all_confirmed(outbox: Outbox) -> None:
    """Wait until all that is committed by now is confirmed, also where no event follows: the relay asks for keepalives."""
    now = outbox.current_lsn()
    eventually(lambda: outbox.confirmed_past(now), f"the flush LSN passes {now}")


def metric(relay: Relay, name: str, **labels: str) -> float:
    """One sample of a relay's /metrics; 0 when it is not there (yet). Labels in the order in which they are served."""
    told = "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}" if labels else ""
    with urllib.request.urlopen(f"{relay.http_url}/metrics", timeout=5) as answer:
        found = re.search(rf"^cdc_outbox_{re.escape(name + told)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def warmed_up(outbox: Outbox, *, keys: int = 0) -> None:
    """One event is in Kafka and confirmed, and one for each of the keys 0, 1, …: a key's second record waits until its first is
    confirmed, and the first transaction of a session until a look at the catalog covers it.
    """
    first = {outbox.add(), *outbox.add_all([{"aggregateid": str(key)} for key in range(keys)])}
    outbox.records(lambda records: first <= {event_id(record) for record in records})
    all_confirmed(outbox)


def published(relay: Relay, outbox: Outbox) -> float:
    """Delivery reports that the relay has served so far, for orders."""
    return metric(relay, "events_published_total", topic=f"{outbox.prefix}order")


def logged_at(line: LogLine) -> float:
    """When a line was logged, Unix seconds."""
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()


def commit_one_by_one(outbox: Outbox, count: int, *, keys: int = 20) -> None:
    """Commit so many events, each in a transaction of its own, quickly: a backlog."""
    outbox.database.execute(
        "DO $$ BEGIN FOR number IN 1.." + str(count) + " LOOP"
        " INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        f" VALUES ('order', (number % {keys})::text, 'OrderPlaced', json_build_object('number', number)); COMMIT;"
        " END LOOP; END $$"
    )


def commit_at_once(outbox: Outbox, count: int) -> None:
    """Commit so many events in one transaction."""
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        " SELECT 'order', (number % 20)::text, 'OrderPlaced', json_build_object('number', number)"
        f" FROM generate_series(1, {count}) number"
    )


class PatientWriters(Writers):
    """Writers that go on when their server goes away and comes back. What was committed, the witness knows."""

    def _write_on(self, seed: int) -> None:
        while not self._enough.is_set():
            with contextlib.suppress(psycopg.OperationalError):
                super()._write_on(seed)
            self._enough.wait(0.05)


def ends_well(outbox: Outbox, relay: Relay, witness: Witness, writers: Writers | None = None) -> Verdict:
    """Everything that is committed by now arrives and is confirmed; the relay stops cleanly; the oracle has no objection."""
    if writers is not None:
        writers.stop()
    outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0, relay.stderr_text
    return judged(outbox, witness, writers)


def judged(outbox: Outbox, witness: Witness, writers: Writers | None = None) -> Verdict:
    """What the oracle says of all records that are there."""
    return judge(witness.committed(), outbox.records(), rolled_back=writers.rolled_back if writers else ())


def recovery(outbox: Outbox, *arguments: str) -> list[str]:
    """What follows `python` in the command line of a `cdc-outbox slot recover`. A later option counts."""
    settings = (
        "--dsn",
        outbox.database.dsn,
        "--brokers",
        outbox.kafka.brokers,
        "--topic",
        f"{outbox.prefix}{{aggregatetype}}",
    )
    return ["-m", "cdc_outbox", "slot", "recover", "--yes", "--log-format", "json", *settings, *arguments]


def recover(outbox: Outbox, *arguments: str, code: int = 0) -> str:
    """`cdc-outbox slot recover`, which ends with `code`. What it says."""
    command = [sys.executable, *recovery(outbox, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stderr
