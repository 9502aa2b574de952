"""What `status` makes of two witnesses, one of whom may be silent, wrong, or somebody else."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from cdc_outbox.commands import status
from cdc_outbox.commands.slots import SlotStatus
from cdc_outbox.commands.status import Limit, StatusReader, StatusReport, ask_relay, exceeded, unsafe
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import Secret
from cdc_outbox.errors import Unreachable
from cdc_outbox.lsn import Lsn
from cdc_outbox.observe.status_document import StatusDocument
from cdc_outbox.postgres.slot import SlotInfo
from cdc_outbox.shutdown import Stop

MIB = 1 << 20
SETTINGS = Settings(dsn=Secret.of(""), brokers="", http="off")
SLOT = SlotInfo(
    name="cdc_outbox",
    plugin="pgoutput",
    slot_type="logical",
    database="shop",
    temporary=False,
    active=True,
    active_pid=7,
    wal_status="reserved",
    restart_lsn=Lsn(40 * MIB),
    confirmed_flush_lsn=Lsn(90 * MIB),
    safe_wal_bytes=None,
    failover=False,
    current_database="shop",
)
STREAMING: dict[str, Any] = {
    "state": "streaming",
    "slot": "cdc_outbox",
    "publication": "cdc_outbox",
    "tables": ["public.outbox", "public.other"],
    "slot_active": True,
    "lag_bytes": 1,
    "lag_seconds": 4.5,
    "in_flight_events": 12,
    "last_error": None,
    "seconds_until_lost": 77.0,
    "of the future": 1,
}
LAG = Limit("lag_seconds", "--max-lag-seconds", 60.0)
WAL = Limit("retained_wal_bytes", "--max-wal-bytes", 10 * MIB)


@contextmanager
def answering(body: bytes, code: int = 200) -> Iterator[str]:
    """Somebody who says this to every GET; the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the database say these, one after the other, the last again and again."""

    def says(*answers: SlotStatus | Exception) -> None:
        left = list(answers)

        def read(_dsn: str, _slot: str) -> SlotStatus:
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(status, "read_status", read)

    return says


def look(settings: Settings = SETTINGS) -> StatusReport:
    return StatusReader(settings, str, Stop()).read()


def test_without_a_relay_the_slot_is_known_and_the_lag_in_seconds_is_not(database: Callable[..., None]) -> None:
    database(SlotStatus(SLOT, Lsn(100 * MIB)))
    found = look()

    assert found.problem is None
    assert (found.document.state, found.document.slot_active) == ("streaming", True)
    assert (found.document.lag_bytes, found.document.retained_wal_bytes) == (10 * MIB, 60 * MIB)
    assert (found.document.lag_seconds, found.document.last_error, found.document.in_flight_events) == (None,) * 3


def test_without_a_process_that_streams_the_state_is_unknown(database: Callable[..., None]) -> None:
    database(SlotStatus(replace(SLOT, active=False), Lsn(100 * MIB)))

    assert look().document.state is None


def test_the_lag_comes_from_the_relay_and_the_slot_from_the_database(database: Callable[..., None]) -> None:
    database(SlotStatus(SLOT, Lsn(100 * MIB)))
    with answering(json.dumps(STREAMING).encode()) as address:
        found = look(replace(SETTINGS, http=address))

    document = found.document
    assert (document.lag_seconds, document.in_flight_events) == (4.5, 12)
    assert document.lag_bytes == 10 * MIB
    assert document.tables == ("public.outbox", "public.other")
    assert found.relay == f"the relay at {address} is streaming"


def test_without_the_database_the_relay_s_own_view_is_shown_with_the_reason(database: Callable[..., None]) -> None:
    database(Unreachable("PostgreSQL cannot be reached"))
    with answering(json.dumps(STREAMING).encode()) as address:
        found = look(replace(SETTINGS, http=address))

    assert (found.document.state, found.document.lag_bytes) == ("streaming", 1)
    assert isinstance(found.problem, Unreachable)


def test_an_unreported_rate_is_taken_from_two_reads(
    database: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = replace(SLOT, safe_wal_bytes=600 * MIB)
    database(SlotStatus(limited, Lsn(100 * MIB)), SlotStatus(limited, Lsn(102 * MIB)))
    clock = iter((10.0, 11.0))
    monkeypatch.setattr(status.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(status, "SECOND_LOOK_SECONDS", 0.0)

    assert look().document.seconds_until_lost == 300.0


def test_a_rate_reported_by_the_relay_is_not_measured_again(database: Callable[..., None]) -> None:
    database(SlotStatus(replace(SLOT, safe_wal_bytes=600 * MIB), Lsn(100 * MIB)))
    with answering(json.dumps(STREAMING).encode()) as address:
        assert look(replace(SETTINGS, http=address)).document.seconds_until_lost == 77.0


@pytest.mark.parametrize("wal_status", ["lost", "unreserved"])
def test_a_slot_that_is_lost_or_about_to_be_is_critical_and_unsafe(
    database: Callable[..., None], wal_status: str
) -> None:
    database(SlotStatus(replace(SLOT, active=False, wal_status=wal_status, restart_lsn=None), Lsn(100 * MIB)))
    found = look()

    assert (found.document.health, found.document.reasons[0].code) == ("critical", f"slot-{wal_status}")
    assert found.problem is None
    assert unsafe(found.document)


def test_health_is_judged_again_with_the_values_of_the_database(database: Callable[..., None]) -> None:
    database(SlotStatus(replace(SLOT, wal_status="unreserved"), Lsn(100 * MIB)))
    told = {**STREAMING, "health": "ok", "reasons": [{"code": "of the future"}]}
    with answering(json.dumps(told).encode()) as address:
        found = look(replace(SETTINGS, http=address))

    assert [reason.code for reason in found.document.reasons] == ["slot-unreserved"]


def test_a_relay_whose_loop_is_stuck_is_critical(database: Callable[..., None]) -> None:
    database(SlotStatus(SLOT, Lsn(100 * MIB)))
    with answering(json.dumps({**STREAMING, "alive": False}).encode()) as address:
        assert "loop-stuck" in [reason.code for reason in look(replace(SETTINGS, http=address)).document.reasons]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"<html>", 200, "is not a cdc-outbox relay"),
        (b"[1]", 200, "is not a cdc-outbox relay"),
        (b'{"title": "something else"}', 200, "is not a cdc-outbox relay"),
        (json.dumps(STREAMING).encode(), 500, "is not a cdc-outbox relay"),
        (json.dumps({**STREAMING, "slot": "billing"}).encode(), 200, "is one of slot billing"),
    ],
)
def test_the_answer_of_another_service_is_ignored(body: bytes, code: int, words: str) -> None:
    with answering(body, code) as address:
        answer = ask_relay(address, "cdc_outbox")

    assert answer.members is None
    assert words in answer.text


def seen(relay: str = "no relay answers", answered: bool = False, **members: Any) -> StatusReport:
    return StatusReport(StatusDocument(None, "cdc_outbox", "cdc_outbox", (), **members), relay, answered, None)


def test_a_limit_is_exceeded_by_more_and_not_by_as_much() -> None:
    assert exceeded(seen(lag_seconds=60.0, retained_wal_bytes=10 * MIB), [LAG, WAL]) == []
    assert exceeded(seen(lag_seconds=60.001, retained_wal_bytes=10 * MIB + 1), [LAG, WAL]) == [
        "lag_seconds is 60.001, more than --max-lag-seconds 60",
        "retained_wal_bytes is 10,485,761, more than --max-wal-bytes 10,485,760",
    ]


def test_a_limit_on_an_unknown_value_counts_as_exceeded_with_the_reason() -> None:
    [lag, wal] = exceeded(replace(seen(), problem=Unreachable("PostgreSQL cannot be reached")), [LAG, WAL])

    assert lag == (
        "lag_seconds is not known, so --max-lag-seconds cannot be checked: "
        "only the relay itself knows it, and no relay answers"
    )
    assert wal.endswith("--max-wal-bytes cannot be checked: PostgreSQL cannot be reached")


def test_a_lag_limit_on_a_standby_refers_to_the_relay_that_streams() -> None:
    look_at_standby = replace(
        seen("the relay at :8420 is standby", answered=True),
        document=StatusDocument("standby", "cdc_outbox", "cdc_outbox", ()),
    )

    [lag] = exceeded(look_at_standby, [LAG])
    assert lag.endswith("only a relay that streams knows it, and the relay at :8420 is standby")
