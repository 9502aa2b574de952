"""How a relay and its slot are doing, asked from outside: the database, and the relay itself where it answers.

In: a DSN, names, the relay's HTTP address. Out: a `StatusReport`: the status document, its origin, and what is wrong.
Never: Kafka, a privilege (everybody may look at slots), a value made up. Of the slot the database knows more than the relay;
what is late in seconds, only the relay that streams knows.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.commands.slots import SlotStatus, read_status
from cdc_outbox.config.value_types import address_to_ask
from cdc_outbox.counters import SlotCounters, State
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import WalRate
from cdc_outbox.observe.health import judged
from cdc_outbox.observe.status_document import StatusDocument, with_slot
from cdc_outbox.postgres.slot import require_usable
from cdc_outbox.shutdown import Stop

OFF: Final = "off"

HTTP_SECONDS: Final = 3.0
"""The relay answers from memory, in a millisecond."""

MAX_ANSWER_BYTES: Final = 1 << 20
"""Whoever answers at that address may be somebody else."""

SECOND_LOOK_SECONDS: Final = 1.0
"""Between the first two looks, where the rate of WAL is wanted and nobody has told it: a rate needs two."""


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """Whom to ask about what. `http`: where the relay listens, or off."""

    dsn: str
    slot: str
    publication: str
    tables: tuple[TableName, ...]
    http: str


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What was found at one moment."""

    document: StatusDocument
    relay: str
    """Whether the relay itself answered, in words."""
    answered: bool
    problem: CdcOutboxError | None
    """Why the database could not tell, or why the slot cannot be streamed from."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold: a member of the document, the option's name, and how much is too much."""

    member: str
    option: str
    most: float


@dataclass(frozen=True, slots=True)
class RelayAnswer:
    """What a relay said of itself; None: it did not, and `words` tell why."""

    members: dict[str, object] | None
    text: str


class StatusReader:
    """Looks again and again: the rate of WAL comes from one look to the next."""

    def __init__(self, query: StatusQuery, stop: Stop) -> None:
        self._query = query
        self._stop = stop
        self._rate = WalRate()

    def read(self) -> StatusReport:
        """Ask both. Never raises because somebody does not answer: the look says so."""
        query = self._query
        answer = ask_relay(query.http, query.slot)
        document = _of_relay(query, answer)
        problem: CdcOutboxError | None = None
        try:
            found = self._read()
            rate_is_wanted = found.slot.safe_wal_bytes is not None and document.seconds_until_lost is None
            if rate_is_wanted and self._rate.bytes_per_second is None and not self._stop.wait(SECOND_LOOK_SECONDS):
                found = self._read()
            document = self._with_slot(document, found)
            require_usable(found.slot, lost_is_fine=True)  # a slot that is lost is the judgement's business
        except CdcOutboxError as error:
            problem = error
        document = judged(document)
        return StatusReport(document, answer.text, answer.members is not None, problem)

    def _read(self) -> SlotStatus:
        found = read_status(self._query.dsn, self._query.slot)
        self._rate.add(time.monotonic(), found.current_lsn)
        return found

    def _with_slot(self, document: StatusDocument, found: SlotStatus) -> StatusDocument:
        """What the database says of the slot, in place of what the relay said."""
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
            document = replace(document, state=State.STREAMING)  # whoever it is
        return document


def unsafe(document: StatusDocument) -> bool:
    """Whether the slot is lost, or is lost at the next checkpoint: then `status` ends with 1."""
    return document.wal_status in {"unreserved", "lost"}


def exceeded(report: StatusReport, limits: Sequence[Limit]) -> list[str]:
    """A sentence for each limit that is exceeded. One on a value that nobody knows is exceeded too: it is not kept."""
    members = report.document.members()
    sentences = []
    for limit in limits:
        value = members[limit.member]
        if not isinstance(value, (int, float)):
            sentences.append(
                f"{limit.member} is not known, so nobody can say that it is within {limit.option}: {_why(limit, report)}"
            )
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
    """What the relay that listens on `address` says of itself, if it is one of this slot."""
    if address == OFF:
        return RelayAnswer(None, "it was not asked (--http off)")
    host, port = address_to_ask(address)
    connection = http.client.HTTPConnection(host, port, timeout=HTTP_SECONDS)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        text = response.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        return RelayAnswer(None, f"none answers at {address}: {getattr(error, 'strerror', None) or error}")
    finally:
        connection.close()
    try:
        members = json.loads(text)
    except ValueError:
        members = None
    if response.status != http.client.OK or not isinstance(members, dict) or "slot" not in members:
        return RelayAnswer(None, f"who answers at {address} is no relay")
    if members["slot"] != slot:
        return RelayAnswer(None, f"the one at {address} is that of slot {str(members['slot'])[:63]}")
    return RelayAnswer(members, f"the one at {address} is {str(members.get('state'))[:20]}")


def _of_relay(query: StatusQuery, answer: RelayAnswer) -> StatusDocument:
    """The document as the relay alone would have it; all unknown without an answer."""
    document = StatusDocument(
        state=None,
        slot=query.slot,
        publication=query.publication,
        tables=tuple(str(table) for table in query.tables),
    )
    if answer.members is None:
        return document
    known = {name: value for name, value in answer.members.items() if name in document.members()}
    known.pop("reasons", None)  # they are judged again, with what the database says of the slot
    tables = known.pop("tables", None)
    if isinstance(tables, list):
        known["tables"] = tuple(map(str, tables))
    return replace(document, **known)  # type: ignore[arg-type]  # a relay of ours wrote it
