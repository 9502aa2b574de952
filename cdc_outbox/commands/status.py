"""Status of a relay and its slot: read from the database, and from the relay's HTTP server if it answers.

In: a DSN, names, the relay's HTTP address. Out: a `StatusReport`: the status document, its origin, and what is wrong.
Never: Kafka, a privilege (every role may read pg_replication_slots), an estimate of an unknown value. The facts about the
slot come from the database; the lag in seconds is known only to the relay that streams.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.commands.slots import SlotStatus, read_status
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import address_to_ask
from cdc_outbox.counters import SlotCounters, State
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.lsn import WalRate
from cdc_outbox.observe.health import judged
from cdc_outbox.observe.status_document import StatusDocument, with_slot
from cdc_outbox.postgres.slot import require_usable
from cdc_outbox.shutdown import Stop

OFF: Final = "off"

HTTP_SECONDS: Final = 3.0
"""Seconds to wait for the answer. The relay answers from memory, in a millisecond."""

MAX_ANSWER_BYTES: Final = 1 << 20
"""Limit of the answer: another program may listen on that address."""

SECOND_LOOK_SECONDS: Final = 1.0
"""Between the first two reads of the slot, if the relay has not reported the rate of WAL: a rate needs two reads."""


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The status at one moment."""

    document: StatusDocument
    relay: str
    """A sentence: whether the relay answered, and its state."""
    answered: bool
    problem: CdcOutboxError | None
    """Why the slot could not be read, or why it cannot be streamed from."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold: a member of the document, the option's name, and the largest allowed value."""

    member: str
    option: str
    most: float


@dataclass(frozen=True, slots=True)
class RelayAnswer:
    """A relay's answer. `members` is None if there is none; `text` has the reason."""

    members: dict[str, object] | None
    text: str


class StatusReader:
    """Reads the status repeatedly; the rate of WAL is computed from consecutive reads."""

    def __init__(self, settings: Settings, complete: Callable[[str], str], stop: Stop) -> None:
        """`settings`: the dsn, the names, and the relay's address. `complete`: completes the commands in a cure."""
        self._settings = settings
        self._complete = complete
        self._stop = stop
        self._rate = WalRate()

    def read(self) -> StatusReport:
        """Read from the database and the relay. Does not raise if one does not answer: the report has the reason."""
        settings = self._settings
        answer = ask_relay(settings.http, settings.slot)
        document = _of_relay(settings, answer)
        problem: CdcOutboxError | None = None
        try:
            found = self._read()
            rate_is_wanted = found.slot.safe_wal_bytes is not None and document.seconds_until_lost is None
            if rate_is_wanted and self._rate.bytes_per_second is None and not self._stop.wait(SECOND_LOOK_SECONDS):
                found = self._read()
            document = self._with_slot(document, found)
            require_usable(found.slot, lost_is_fine=True)  # `judged` reports a lost slot
        except CdcOutboxError as error:
            problem = error
        document = judged(document, self._complete)
        return StatusReport(document, answer.text, answer.members is not None, problem)

    def _read(self) -> SlotStatus:
        found = read_status(self._settings.dsn.reveal(), self._settings.slot)
        self._rate.add(time.monotonic(), found.current_lsn)
        return found

    def _with_slot(self, document: StatusDocument, found: SlotStatus) -> StatusDocument:
        """Replace the relay's figures of the slot with the database's."""
        info = found.slot
        reported, rate = document.seconds_until_lost, document.wal_bytes_per_second
        document = with_slot(
            document,
            SlotCounters(
                active=info.active,
                wal_status=info.wal_status,
                current_lsn=found.current_lsn,
                restart_lsn=info.restart_lsn,
                confirmed_flush_lsn=info.confirmed_flush_lsn,
                safe_wal_bytes=info.safe_wal_bytes,
                seen_timestamp=time.time(),
                wal_bytes_per_second=self._rate.bytes_per_second,
            ),
        )
        if document.seconds_until_lost is None and document.safe_wal_bytes is not None:
            document = replace(document, seconds_until_lost=reported, wal_bytes_per_second=rate)
        if document.state is None and info.active:
            document = replace(document, state=State.STREAMING)  # some process streams from it
        return document


def unsafe(document: StatusDocument) -> bool:
    """Whether the slot is lost, or is lost at the next checkpoint: then `status` ends with 1."""
    return document.wal_status in {"unreserved", "lost"}


def exceeded(report: StatusReport, limits: Sequence[Limit]) -> list[str]:
    """A sentence for each limit that is exceeded. A limit on an unknown value counts as exceeded."""
    members = report.document.members()
    sentences = []
    for limit in limits:
        value = members[limit.member]
        if not isinstance(value, (int, float)):
            sentences.append(f"{limit.member} is not known, so {limit.option} cannot be checked: {_why(limit, report)}")
        elif value > limit.most:
            sentences.append(f"{limit.member} is {value:,}, more than {limit.option} {limit.most:,.10g}")
    return sentences


def _why(limit: Limit, report: StatusReport) -> str:
    if limit.member != "lag_seconds":
        return str(report.problem or "the slot keeps no WAL")
    if report.answered and report.document.state != State.STREAMING:
        return f"only a relay that streams knows it, and {report.relay}"
    return f"only the relay itself knows it, and {report.relay}"


def ask_relay(address: str, slot: str) -> RelayAnswer:
    """Read /status of the relay that listens on `address`, if it is a relay of this slot."""
    if address == OFF:
        return RelayAnswer(None, "the relay was not queried (--http off)")
    host, port = address_to_ask(address)
    connection = http.client.HTTPConnection(host, port, timeout=HTTP_SECONDS)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        text = response.read(MAX_ANSWER_BYTES)
    except (OSError, UnicodeError, http.client.HTTPException) as error:  # UnicodeError: a host that no DNS name can be
        return RelayAnswer(None, f"no relay answers at {address}: {getattr(error, 'strerror', None) or error}")
    finally:
        connection.close()
    try:
        members = json.loads(text)
    except ValueError:
        members = None
    if response.status != http.client.OK or not isinstance(members, dict) or "slot" not in members:
        return RelayAnswer(None, f"the service at {address} is not a cdc-outbox relay")
    if members["slot"] != slot:
        return RelayAnswer(None, f"the relay at {address} is one of slot {str(members['slot'])[:63]}")
    return RelayAnswer(members, f"the relay at {address} is {str(members.get('state'))[:20]}")


def _of_relay(settings: Settings, answer: RelayAnswer) -> StatusDocument:
    """The document from the relay's answer alone; without an answer all values are unknown."""
    document = StatusDocument(
        state=None,
        slot=settings.slot,
        publication=settings.publication,
        tables=tuple(str(table) for table in settings.tables),
    )
    if answer.members is None:
        return document
    known = {name: value for name, value in answer.members.items() if name in document.members()}
    known.pop("reasons", None)  # they are computed again, with the database's facts about the slot
    tables = known.pop("tables", None)
    if isinstance(tables, list):
        known["tables"] = tuple(map(str, tables))
    return replace(document, **known)  # type: ignore[arg-type]  # written by a cdc-outbox relay
