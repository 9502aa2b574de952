"""An event becomes exactly one record, part by part, or a poison event that says why."""

from __future__ import annotations

import calendar
import contextlib
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config.settings import Columns
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import ConfigurationError, PoisonEvent
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.records import router
from cdc_outbox.records.events import OutboxEvent, OutboxPlan, compile_plan
from cdc_outbox.records.mapping import RowMapping
from cdc_outbox.records.router import (
    UNASSIGNED,
    HeaderNames,
    KafkaRecord,
    Route,
    header_names,
    unix_milliseconds,
)
from cdc_outbox.records.templates import TopicTemplate
from tests.plugins import wire_builder as build

if TYPE_CHECKING:
    from collections.abc import Callable

COMMITTED = 1_794_000_000_123
"""Unix milliseconds."""

COMMIT = Transaction(COMMITTED)

LIMIT = 300_000
"""message.max.bytes: more than what is parsed as a whole."""

SHAPE = (
    *build.OUTBOX,
    ("created_at", build.TIMESTAMPTZ),
    ("shard", build.INT4),
    ("tenant", build.TEXT),
    ("traceparent", build.TEXT),
    ("tracestate", build.TEXT),
    ("tracingspancontext", build.TEXT),
)

ROW: dict[str, bytes | None] = {
    "seq": b"1",
    "id": b"0190f4c8-0000-7000-8000-000000000001",
    "aggregatetype": b"order",
    "aggregateid": b"customer-1",
    "type": b"OrderPlaced",
    "payload": b'{"total":  1.10}',
    "headers": None,
    "created_at": None,
    "shard": None,
    "tenant": None,
    "traceparent": None,
    "tracestate": None,
    "tracingspancontext": None,
}


class Way:
    """One configuration: rows in, records out."""

    def __init__(
        self,
        topic: str = "outbox.event.{aggregatetype}",
        columns: Columns = Columns(),  # noqa: B008  # frozen
        headers: tuple[HeaderColumn, ...] = (),
        names: HeaderNames = HeaderNames(),  # noqa: B008  # frozen
    ) -> None:
        relation = Relation(1, "public", "outbox", "d", tuple(Column(*column) for column in SHAPE))
        template = TopicTemplate(topic)
        self.plan: OutboxPlan = compile_plan(relation, columns, template.columns, headers)
        self.route = Route(self.plan, template, names, LIMIT)
        self.streamed = RowMapping("outbox", self.plan.read, self.plan.compile(self.route.make))

    def record(self, **cells: bytes | None) -> KafkaRecord:
        """The record of the row, the same from a row of the stream and from a row of a query: the first of its topic, and a
        later one.
        """
        message = build.xlogdata(build.insert(1, self.row(cells)))
        found = [self._try(lambda: self.streamed.record(message, COMMIT)) for _ in range(2)]
        found.append(self._try(lambda: self.route.record(self.event(**cells), COMMIT)))
        first = found[0]
        if isinstance(first, PoisonEvent):
            assert {(str(each), tuple(getattr(each, "where", {}).items())) for each in found} == {
                (str(first), tuple(first.where.items()))
            }
            raise first
        assert all((each, type(each)) == (first, KafkaRecord) for each in found)
        return first

    def event(self, **cells: bytes | None) -> OutboxEvent:
        return self.plan.pick(self.row(cells))

    @staticmethod
    def row(cells: dict[str, bytes | None]) -> list[bytes | None]:
        assert cells.keys() <= ROW.keys()
        return [*{**ROW, **cells}.values()]

    @staticmethod
    def _try(make: Callable[[], KafkaRecord]) -> KafkaRecord | PoisonEvent:
        try:
            return make()
        except PoisonEvent as error:
            return error

    def poison(self, **cells: bytes | None) -> PoisonEvent:
        with pytest.raises(PoisonEvent) as raised:
            self.record(**cells)
        return raised.value


def test_the_record_of_an_event() -> None:
    record = Way().record()
    assert type(record) is KafkaRecord
    assert record == KafkaRecord(
        topic="outbox.event.order",
        key=b"customer-1",
        value=b'{"total":  1.10}',
        headers=[("id", b"0190f4c8-0000-7000-8000-000000000001"), ("type", b"OrderPlaced")],
        timestamp=COMMITTED,
        partition=UNASSIGNED,
    )


# Key and value


@given(st.none() | st.binary(max_size=50))
def test_the_value_is_the_payload_byte_for_byte(payload: bytes | None) -> None:
    assert Way().record(payload=payload).value == payload


def test_a_null_payload_is_a_tombstone_and_an_empty_one_is_not() -> None:
    assert Way().record(payload=None).value is None
    assert Way().record(payload=b"").value == b""


def test_the_payload_is_neither_copied_nor_parsed() -> None:
    payload = b"{not even json" * 100_000
    way = Way()
    assert way.route.record(way.event(payload=payload), COMMIT).value is payload


def test_a_null_key_is_a_null_key_and_an_empty_one_is_not() -> None:
    assert Way().record(aggregateid=None).key is None
    assert Way().record(aggregateid=b"").key == b""


def test_a_key_of_any_language_is_its_utf8() -> None:
    assert Way().record(aggregateid="客户-ß".encode()).key == "客户-ß".encode()


# Topic


@pytest.mark.parametrize(
    ("template", "topic"),
    [
        ("outbox.event.{aggregatetype}", "outbox.event.order"),
        ("{aggregatetype}", "order"),
        ("{aggregatetype}.{type}", "order.OrderPlaced"),
        ("{type}-{type}_x", "OrderPlaced-OrderPlaced_x"),
        ("events", "events"),
        ("{aggregatetype}{type}", "orderOrderPlaced"),
    ],
)
def test_a_template_takes_any_column(template: str, topic: str) -> None:
    assert Way(template).record().topic == topic


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{",
        "}",
        "a{b",
        "a}b",
        "{}",
        "a{}",
        "{{aggregatetype}}",
        "a b",
        "größe",
        "a/b",
        "a" * 250,
        "x" * 249 + "{type}",
        "a\n",
    ],
)
def test_a_template_that_can_make_no_topic_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot make a topic") as raised:
        TopicTemplate(template)
    assert "outbox.event.{aggregatetype}" in raised.value.cure


@pytest.mark.parametrize("template", [".", ".."])
def test_a_template_that_is_a_name_kafka_keeps_for_itself_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot make a topic"):
        TopicTemplate(template)


def test_the_longest_topic_has_249_characters() -> None:
    way = Way("{aggregatetype}")
    assert way.record(aggregatetype=b"a" * 249).topic == "a" * 249
    assert way.poison(aggregatetype=b"a" * 250).where["reason"] == "bad-topic"
    assert TopicTemplate("a" * 249).fill(()) == "a" * 249


@pytest.mark.parametrize(
    "value", [b"", b".", b"..", b"a b", b"a/b", "größe".encode(), b"a\n", b"a\0", b"\xff", b"a:b", "é".encode()]
)
def test_a_value_that_is_no_topic_is_poison(value: bytes) -> None:
    error = Way("{aggregatetype}").poison(aggregatetype=value)
    assert error.where["reason"] == "bad-topic"


def test_dots_are_refused_only_where_they_are_the_whole_name() -> None:
    assert Way("{aggregatetype}.").poison(aggregatetype=b"").where["reason"] == "bad-topic"
    assert Way("{aggregatetype}.").record(aggregatetype=b"..").topic == "..."


def test_a_null_column_in_the_topic_is_poison_that_names_it() -> None:
    error = Way().poison(aggregatetype=None)
    assert error.message == "column aggregatetype, which names the topic, is NULL"
    assert error.where["reason"] == "bad-topic"


@given(st.binary(max_size=20))
def test_a_topic_obeys_kafkas_rule_or_the_event_is_poison(value: bytes) -> None:
    with contextlib.suppress(PoisonEvent):
        topic = Way("{aggregatetype}").record(aggregatetype=value).topic
        assert topic.encode() == value
        assert set(value) <= set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert value not in {b"", b".", b".."}


def test_remembered_topics_are_distinguished_by_every_column() -> None:
    way = Way("{aggregatetype}-{type}")
    for _ in range(2):
        assert way.record(aggregatetype=b"a", type=b"bc").topic == "a-bc"
        assert way.record(aggregatetype=b"ab", type=b"c").topic == "ab-c"


def test_topics_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "TOPIC_CACHE_ENTRIES", 3)
    way = Way("{aggregateid}")
    for number in range(20):
        assert way.record(aggregateid=b"%d" % number).topic == str(number)
        assert len(way.route._topics) <= 3


def test_a_poison_topic_is_not_remembered() -> None:
    way = Way()
    for _ in range(2):
        way.poison(aggregatetype=b"a b")
    assert way.route._topics == {}


# The headers that always go out


def test_an_event_without_an_id_is_poison() -> None:
    error = Way().poison(id=None)
    assert (error.where["reason"], error.where["key"]) == ("no-id", "customer-1")
    assert "id" not in error.where


def test_a_null_type_is_no_header_and_an_empty_one_is() -> None:
    assert Way().record(type=None).headers == [("id", ROW["id"])]
    assert Way().record(type=b"").headers == [("id", ROW["id"]), ("type", b"")]


def test_id_and_type_may_be_called_otherwise() -> None:
    record = Way(names=HeaderNames("eventId", "eventType")).record()
    assert [name for name, _ in record.headers] == ["eventId", "eventType"]


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ((), HeaderNames("id", "type")),
        ((HeaderColumn("id", "eventId"),), HeaderNames("eventId", "type")),
        ((HeaderColumn("type", "eventType"),), HeaderNames("id", "eventType")),
        ((HeaderColumn("tenant", "t"), HeaderColumn("event_id", "e")), HeaderNames("e", "type")),
        ((HeaderColumn("id", "id"), HeaderColumn("type", "type")), HeaderNames("id", "type")),
    ],
)
def test_naming_the_id_or_type_column_as_a_header_renames_it(
    headers: tuple[HeaderColumn, ...], names: HeaderNames
) -> None:
    assert header_names(headers, ("id", "event_id"), ("type",)) == names


@pytest.mark.parametrize(
    "headers",
    [
        [HeaderColumn("id", "eventId"), HeaderColumn("id", "event-id")],
        [HeaderColumn("id", "eventId"), HeaderColumn("event_id", "event-id")],
        [HeaderColumn("type", "a"), HeaderColumn("type", "a")],
        [HeaderColumn("tenant", "id")],
        [HeaderColumn("tenant", "type")],
        [HeaderColumn("type", "x"), HeaderColumn("tenant", "x")],
        [HeaderColumn("id", "type")],
        [HeaderColumn("a", "x"), HeaderColumn("b", "x")],
    ],
)
def test_a_second_alias_and_two_headers_of_one_name_are_refused(headers: list[HeaderColumn]) -> None:
    with pytest.raises(ConfigurationError, match="header"):
        header_names(headers, ("id", "event_id"), ("type",))


SPANS = Columns(span_context="tracingspancontext")


def test_a_span_context_of_debezium_becomes_the_headers_that_it_holds() -> None:
    """As java.util.Properties.store writes it: a comment, the date, escaped colons and equals signs."""
    text = b"#Context\n#Mon Nov 23\ntraceparent=00-aa-bb-01\ntracestate=a\\=1,b\\:c\nuber-trace-id=1\\:2\\:0\\:1\n"
    assert Way(columns=SPANS).record(tracingspancontext=text).headers[2:] == [
        ("traceparent", b"00-aa-bb-01"),
        ("tracestate", b"a=1,b:c"),
        ("uber-trace-id", b"1:2:0:1"),
    ]
    assert Way(columns=SPANS).record(tracingspancontext=None).headers[2:] == []
    assert Way().record(tracingspancontext=text).headers[2:] == [], "nobody named the column"


def test_a_member_and_a_column_win_over_the_span_context() -> None:
    text = b"traceparent=00-cc-dd-01\ntracestate=c\nid=wrong\nbaggage=x"
    record = Way(columns=SPANS).record(
        tracingspancontext=text, headers=b'{"traceparent": "00-aa-bb-01"}', tracestate=b"column"
    )
    assert record.headers == [
        ("id", ROW["id"]),
        ("type", b"OrderPlaced"),
        ("traceparent", b"00-aa-bb-01"),
        ("tracestate", b"column"),
        ("baggage", b"x"),
    ]


@pytest.mark.parametrize("text", [b"=x", b"a=\\q", b"a=\xff", b"a=\\uD800"])
def test_a_span_context_that_is_none_is_poison(text: bytes) -> None:
    assert Way(columns=SPANS).poison(tracingspancontext=text).where["reason"] == "bad-span-context"


def test_a_member_named_like_a_standard_header_is_left_out() -> None:
    way = Way(names=HeaderNames("event-id", "type"))
    members = b'{"event-id": "wrong", "type": "wrong", "id": "mine", "n": 1}'
    assert way.record(headers=members).headers == [
        ("event-id", ROW["id"]),
        ("type", b"OrderPlaced"),
        ("id", b"mine"),
        ("n", b"1"),
    ]
    assert way.record(headers=b'{"type": "mine"}', type=None).headers == [("event-id", ROW["id"]), ("type", b"mine")]


# Headers of members and of columns


def test_members_come_in_their_order_after_id_and_type() -> None:
    record = Way().record(headers=b'{"b":"1","a":"2","n":3}')
    assert record.headers[2:] == [("b", b"1"), ("a", b"2"), ("n", b"3")]


def test_headers_that_are_no_object_are_poison() -> None:
    error = Way().poison(headers=b"[1]")
    assert error.where["reason"] == "bad-headers"
    assert error.message == "the headers are no JSON object: it is a JSON list"


def test_a_column_may_go_out_as_a_header_and_null_is_none() -> None:
    way = Way(headers=(HeaderColumn("tenant", "tenant-id"),))
    assert way.record(tenant=b"acme").headers[2:] == [("tenant-id", b"acme")]
    assert way.record(tenant=b"").headers[2:] == [("tenant-id", b"")]
    assert way.record(tenant=None).headers[2:] == []


def test_columns_come_after_the_members() -> None:
    way = Way(headers=(HeaderColumn("tenant", "tenant"),))
    headers = way.record(tenant=b"acme", headers=b'{"a":"1"}', traceparent=b"00-1-2-01").headers
    assert headers[2:] == [("a", b"1"), ("tenant", b"acme"), ("traceparent", b"00-1-2-01")]


def test_trace_columns_pass_untouched() -> None:
    headers = Way().record(traceparent=b"00-1-2-01", tracestate=b"a=1,b=2").headers
    assert headers[2:] == [("traceparent", b"00-1-2-01"), ("tracestate", b"a=1,b=2")]


def test_a_trace_column_yields_to_a_member_of_its_name() -> None:
    headers = Way().record(traceparent=b"column", tracestate=b"column", headers=b'{"traceparent":"member"}').headers
    assert headers[2:] == [("traceparent", b"member"), ("tracestate", b"column")]


def test_a_trace_column_named_twice_goes_out_once() -> None:
    headers = Way(headers=(HeaderColumn("traceparent", "traceparent"),)).record(traceparent=b"00-1-2-01").headers
    assert headers[2:] == [("traceparent", b"00-1-2-01")]


def test_records_do_not_share_their_headers() -> None:
    way = Way()
    event = way.event(headers=b'{"a":"1"}')
    first, second = way.route.record(event, Transaction(1)), way.route.record(event, Transaction(2))
    first.headers.append(("more", b""))
    assert second.headers[2:] == [("a", b"1")]


# Timestamp and partition


TIMED = Columns(timestamp="created_at")


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01 00:00:00+00", 0),
        ("1970-01-01 00:00:00", 0),
        ("2026-11-23 08:51:33+00", 1_795_423_893_000),
        ("2026-11-23 08:51:33", 1_795_423_893_000),
        ("2026-11-23 08:51:33.25+00", 1_795_423_893_250),
        ("2026-11-23 08:51:33.1", 1_795_423_893_100),
        ("2026-11-23 08:51:33.123456+00", 1_795_423_893_123),
        ("2026-11-23 08:51:33.000999+00", 1_795_423_893_000),
        ("2026-11-23 14:21:33+05:30", 1_795_423_893_000),
        ("2026-11-23 00:51:33-08", 1_795_423_893_000),
        ("9999-12-31 23:59:59.999999+00", 253_402_300_799_999),
    ],
)
def test_a_timestamp_as_postgresql_prints_it(text: str, milliseconds: int) -> None:
    assert Way(columns=TIMED).record(created_at=text.encode()).timestamp == milliseconds


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)), st.sampled_from(["", "+00"]))  # noqa: DTZ001  # in UTC
def test_any_moment_since_1970_is_its_milliseconds(moment: datetime, offset: str) -> None:
    fraction = f".{moment.microsecond:06}".rstrip("0").rstrip(".")
    text = moment.strftime(f"{moment.year:04}-%m-%d %H:%M:%S") + fraction + offset
    assert unix_milliseconds(text.encode()) == calendar.timegm(moment.timetuple()) * 1000 + moment.microsecond // 1000


@pytest.mark.parametrize(
    "text",
    [
        "infinity",
        "-infinity",
        "0044-03-15 12:00:00+00 BC",
        "0001-01-01 00:00:00+00 BC",
        "1969-12-31 23:59:59.9999+00",
        "1969-12-31 23:59:59",
        "0001-01-01 00:00:00+14",
        "1970-01-01 00:00:00+01",
        "10000-01-01 00:00:00+00",
        "294276-12-31 23:59:59.999999+00",
        "",
        "2026-11-23 08:51:61+00",
        "\N{ARABIC-INDIC DIGIT TWO}026-11-23 08:51:33",
    ],
)
def test_a_timestamp_that_cannot_be_kafkas_is_poison(text: str) -> None:
    error = Way(columns=TIMED).poison(created_at=text.encode())
    assert error.where["reason"] == "bad-timestamp"
    assert error.message.startswith("the timestamp cannot be Kafka's: ")


@given(st.integers(10_000, 294_276), st.integers(1, 12), st.integers(1, 28), st.sampled_from(["", "+00"]))
def test_a_year_beyond_9999_is_never_misread(year: int, month: int, day: int, offset: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # datetime's own words
        unix_milliseconds(f"{year}-{month:02}-{day:02} 00:00:00{offset}".encode())


@given(st.binary(max_size=30))
def test_any_bytes_are_a_timestamp_or_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert unix_milliseconds(text) >= 0


def test_a_timestamp_that_is_null_is_the_commit_time() -> None:
    assert Way(columns=TIMED).record(created_at=None).timestamp == COMMITTED


SHARDED = Columns(partition="shard")


@pytest.mark.parametrize(("cell", "partition"), [(b"0", 0), (b"7", 7), (b"2147483647", 2**31 - 1), (None, UNASSIGNED)])
def test_the_partition_column_chooses_the_partition_and_null_leaves_it_to_the_key(
    cell: bytes | None, partition: int
) -> None:
    assert Way(columns=SHARDED).record(shard=cell).partition == partition


@pytest.mark.parametrize("cell", [b"-1", b"-9223372036854775808", b"2147483648", b"9223372036854775807"])
def test_a_number_that_is_no_partition_is_poison(cell: bytes) -> None:
    """-1 would mean that nobody chose: the partitioner would, in silence."""
    error = Way(columns=SHARDED).poison(shard=cell)
    assert error.where["reason"] == "bad-partition"
    assert error.message == f"{cell.decode()} is no partition"


# What a poison event tells


def test_a_poison_event_is_named_and_its_payload_is_not() -> None:
    error = Way().poison(headers=b"[1]", payload=b"s3cret", aggregateid=b"k")
    assert error.where == {
        "reason": "bad-headers",
        "table": "public.outbox",
        "id": "0190f4c8-0000-7000-8000-000000000001",
        "type": "OrderPlaced",
        "key": "k",
    }
    assert "--on-poison" in error.cure
    assert "s3cret" not in repr((vars(error), error.args, error.__cause__, error.__context__))


def test_a_poison_event_is_named_as_far_as_it_can_be() -> None:
    error = Way().poison(headers=b"[1]", id=b"\xff" + b"i" * 500, type=None, aggregateid=None)
    assert error.where["id"] == "\N{REPLACEMENT CHARACTER}" + "i" * 199
    assert {"type", "key"}.isdisjoint(error.where)


def test_a_topic_of_any_length_is_cut_in_the_error() -> None:
    assert len(Way("{aggregatetype}").poison(aggregatetype=b"x" * 10_000).message) < 500


@pytest.mark.parametrize("size", [LIMIT + 1, 50 * LIMIT])
@pytest.mark.parametrize("column", ["headers", "tracingspancontext"])
def test_text_that_is_larger_than_a_record_is_refused_before_it_is_parsed(column: str, size: int) -> None:
    error = Way(columns=SPANS).poison(**{column: b"[" * size})
    assert error.where["reason"] == "msg-size-too-large"
    assert (error.where["size"], error.where["limit"], error.where["id"]) == (size, LIMIT, (ROW["id"] or b"").decode())


@pytest.mark.parametrize("column", ["headers", "tracingspancontext"])
@pytest.mark.parametrize("number", ["", "1e400", "1" + "0" * 5000])
@pytest.mark.parametrize("name", ["\\ud800", "a\\udc00b", "\\ud800\\ud800", "\\u0000", "a\\u0000"])
def test_a_name_that_is_no_text_without_nul_is_refused(column: str, number: str, name: str) -> None:
    """librdkafka's binding does not check names: half a surrogate would end the process, a NUL would cut the name."""
    rest = f',"n":{number}' if number else ""
    text = f'{{"{name}":"x"{rest}}}' if column == "headers" else f"{name}=x\nn={number}"
    error = Way(columns=SPANS).poison(**{column: text.encode()})
    assert error.where["reason"] in {"bad-headers", "bad-span-context"}
    assert "NUL" in str(error) or "UTF-8" in str(error) or "surrogate" in str(error)


@pytest.mark.parametrize("name", ["\udcff", "a\0"])
@pytest.mark.parametrize("column", ["id", "type", "tenant"])
def test_a_name_from_an_option_that_no_header_can_have_is_refused(column: str, name: str) -> None:
    """An argument in another encoding comes as half surrogates, which would end the process at the first row."""
    with pytest.raises(ConfigurationError, match="UTF-8") as raised:
        header_names([HeaderColumn(column, name)], ["id"], ["type"])
    assert "--header" in raised.value.cure
