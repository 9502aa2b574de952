"""A record as one line of JSON, for people and for jq. Pure.

In: a `KafkaRecord` as the relay would produce it, or the error that prevents the record. Out: bytes of one line, with its
line break. Never: a change of a JSON payload beyond line breaks between its tokens.

    topic, key, headers     as Kafka would have them; bytes that are no UTF-8 text are {"base64": "…"}; a header that
                            comes more than once has a list
    value, value_format     "json": the payload itself, embedded; "text"; "base64"; null for a tombstone
    timestamp               ISO 8601, UTC, milliseconds; null for a row of the table without a time column
    lsn                     of the transaction's commit, known when its first event comes; the relay has delivered the
                            event once its slot's confirmed flush LSN is greater. null for a row read from the table
    table
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import orjson

from cdc_outbox.errors import PoisonEvent
from cdc_outbox.lsn import Lsn, format_lsn
from cdc_outbox.records.json_members import check_json
from cdc_outbox.records.router import Headers, KafkaRecord


def event_line(record: KafkaRecord, table: str, lsn: Lsn | None, *, timed: bool = True) -> bytes:
    """The line for `record`. `timed`: its timestamp is known."""
    value, value_format = _value(record.value)
    return _line(
        {
            "topic": record.topic,
            "key": _text(record.key),
            "headers": _headers(record.headers),
            "value": value,
            "value_format": value_format,
            "timestamp": _moment(record.timestamp) if timed else None,
            "lsn": None if lsn is None else format_lsn(lsn),
            "table": table,
        }
    )


def poison_line(error: PoisonEvent, table: str, lsn: Lsn | None) -> bytes:
    """The line for an event that cannot become a record: the error, and the event's known parts."""
    known = {name: value for name, value in error.where.items() if name != "table"}
    where = {"lsn": None if lsn is None else format_lsn(lsn), "table": table}
    return _line({"error": error.message, **known, **where})


def _line(document: dict[str, object]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _value(payload: bytes | None) -> tuple[object, str | None]:
    if payload is None:
        return None, None
    try:
        check_json(payload)
    except ValueError:
        return _text_or_base64(payload)
    # Valid JSON has line breaks between its tokens only. Everything else stays as it is, numbers of any length too.
    return orjson.Fragment(payload.translate(_NO_LINE_BREAKS)), "json"


_NO_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def _text_or_base64(payload: bytes) -> tuple[str, str]:
    try:
        return payload.decode(), "text"
    except UnicodeDecodeError:
        return b64encode(payload).decode(), "base64"


def _text(value: str | bytes | None) -> str | dict[str, str] | None:
    if value is None or isinstance(value, str):
        return value
    shown, form = _text_or_base64(value)
    return shown if form == "text" else {"base64": shown}


def _headers(headers: Headers) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in headers:
        if name not in members:
            members[name] = _text(value)
        else:
            before = members[name]
            members[name] = [*(before if isinstance(before, list) else [before]), _text(value)]
    return members


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
