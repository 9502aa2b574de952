"""Every message of pgoutput by hand-built bytes; whatever is broken ends in ProtocolError, and in nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.errors import ProtocolError
from cdc_outbox.postgres import pgoutput
from cdc_outbox.postgres.pgoutput import Column, Relation, compile_reader, decode
from tests.plugins import wire_builder as build

oids = st.integers(0, 2**32 - 1)
lsns = st.integers(0, 2**64 - 1)
clocks = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
columns = st.lists(st.tuples(names, oids), max_size=8)
cells = st.lists(st.none() | st.binary(max_size=12), max_size=8)

closed_messages = st.one_of(
    st.builds(build.begin, lsns, commit_time=clocks, xid=oids),
    st.builds(build.commit, lsns, lsns, commit_time=clocks, flags=st.integers(0, 255)),
    st.builds(build.relation, oids, columns, schema=names, name=names),
    st.builds(build.user_type, oids, names, names),
    st.builds(build.origin, lsns, names),
    st.lists(oids, max_size=5).map(lambda relations: build.truncate(*relations)),
    st.builds(build.logical_message, names, st.binary(max_size=20), lsn=lsns),
)
"""Those whose end `decode` itself sees."""

row_messages = st.one_of(
    st.builds(build.insert, oids, cells), st.builds(build.update, oids, cells), st.builds(build.delete, oids, cells)
)
messages = closed_messages | row_messages


def decodes_or_is_refused(data: bytes, at: int = 0) -> None:
    with contextlib.suppress(ProtocolError):
        decode(data, at)


# Each message


@given(lsns, clocks, oids)
def test_begin(final_lsn: int, commit_time: int, xid: int) -> None:
    message = build.begin(final_lsn, commit_time=commit_time, xid=xid)
    assert decode(message) == pgoutput.Begin(final_lsn, commit_time, xid)  # type: ignore[arg-type]
    assert type(decode(message)) is pgoutput.Begin


@given(lsns, lsns, clocks)
def test_commit_keeps_its_own_lsn_and_its_end_apart(commit_lsn: int, end_lsn: int, commit_time: int) -> None:
    message = decode(build.commit(commit_lsn, end_lsn, commit_time=commit_time))
    assert isinstance(message, pgoutput.Commit)
    assert (message.commit_lsn, message.end_lsn, message.commit_time) == (commit_lsn, end_lsn, commit_time)


@given(lsns, lsns, clocks, st.binary(max_size=30))
def test_the_readers_of_begin_and_commit_give_what_decode_gives(
    lsn: int, end_lsn: int, commit_time: int, before: bytes
) -> None:
    begin, commit = build.begin(lsn, commit_time=commit_time), build.commit(lsn, end_lsn, commit_time=commit_time)
    assert pgoutput.begin_reader(len(before))(before + begin) == decode(begin)
    assert pgoutput.commit_reader(len(before))(before + commit) == decode(commit)


@pytest.mark.parametrize(
    ("read", "message"),
    [(pgoutput.begin_reader(3), build.begin(1)), (pgoutput.commit_reader(3), build.commit(1, 2))],
)
def test_the_readers_refuse_missing_or_surplus_bytes(read: Callable[[bytes], object], message: bytes) -> None:
    assert read(b"abc" + message)
    for wrong in (message[:-1], message + b"\0", b""):
        with pytest.raises(
            ProtocolError, match=rf"malformed pgoutput \w+: {len(wrong)} bytes instead of {len(message)}"
        ):
            read(b"abc" + wrong)


@given(oids, columns, names, names, st.sampled_from("dnfi"))
def test_relation(oid: int, shape: list[tuple[str, int]], schema: str, name: str, identity: str) -> None:
    keys = [column for column, _ in shape[:1]]
    message = decode(build.relation(oid, shape, schema=schema, name=name, identity=identity, keys=keys, modifier=9))
    expected = tuple(Column(column, type_oid, column in keys, 9) for column, type_oid in shape)
    assert message == Relation(oid, schema, name, identity, expected)


def test_a_relation_of_pg_catalog_has_no_schema_on_the_wire() -> None:
    message = decode(build.relation(1, [], schema="", name="t"))
    assert isinstance(message, Relation)
    assert (message.schema, message.name, message.columns) == ("", "t", ())


def test_a_relation_may_have_as_many_columns_as_a_table() -> None:
    shape = [(f"c{number}", build.TEXT) for number in range(1600)]
    message = decode(build.relation(1, shape))
    assert isinstance(message, Relation)
    assert [(column.name, column.type_oid) for column in message.columns] == shape


@given(oids, cells)
def test_insert_has_the_relation_and_the_place_of_its_tuple(oid: int, row: list[bytes | None]) -> None:
    data = build.insert(oid, row)
    message = decode(data)
    assert isinstance(message, pgoutput.Insert)
    assert message.relation_oid == oid
    assert data[message.tuple_offset :] == b"N" + build.tuple_data(row)


@given(oids, names, names)
def test_type(oid: int, schema: str, name: str) -> None:
    assert decode(build.user_type(oid, schema, name)) == pgoutput.Type(oid, schema, name)


@given(lsns, names)
def test_origin(lsn: int, name: str) -> None:
    assert decode(build.origin(lsn, name)) == pgoutput.Origin(lsn, name)  # type: ignore[arg-type]


@given(st.lists(oids, max_size=6), st.integers(0, 3))
def test_truncate(relations: list[int], options: int) -> None:
    assert decode(build.truncate(*relations, options=options)) == pgoutput.Truncate(tuple(relations))


def test_update_and_delete_are_known_by_name() -> None:
    assert decode(build.update(7, [b"x"])) == pgoutput.Change("Update", 7)
    assert decode(build.delete(7, [b"x"])) == pgoutput.Change("Delete", 7)


@given(names, st.binary(max_size=50), lsns, st.booleans())
def test_a_logical_message_with_any_content(prefix: str, content: bytes, lsn: int, transactional: bool) -> None:
    data = build.logical_message(prefix, content, lsn=lsn, transactional=transactional)
    assert decode(data) == pgoutput.LogicalMessage(transactional, lsn, prefix, content)  # type: ignore[arg-type]


@given(messages, st.binary(max_size=30))
def test_a_message_may_begin_anywhere_in_the_bytes(message: bytes, before: bytes) -> None:
    there = decode(before + message, len(before))
    if isinstance(there, pgoutput.Insert):
        there = there._replace(tuple_offset=there.tuple_offset - len(before))
    assert there == decode(message)


# What is broken


@given(closed_messages, st.data())
def test_a_message_that_breaks_off_is_refused(message: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(ProtocolError):
        decode(message[:length])


@given(closed_messages, st.binary(min_size=1, max_size=10))
def test_a_message_with_surplus_bytes_is_refused(message: bytes, more: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(message + more)


@given(row_messages, st.data())
def test_a_row_with_missing_or_surplus_bytes_is_read_or_refused(message: bytes, data: st.DataObject) -> None:
    decodes_or_is_refused(message[: data.draw(st.integers(0, len(message)))] + data.draw(st.binary(max_size=5)))


@given(messages, st.data())
def test_a_changed_byte_gives_another_message_or_is_refused(message: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(message) - 1))
    decodes_or_is_refused(message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :])


@given(st.binary(max_size=60), st.integers(0, 70))
def test_any_bytes_are_a_message_or_refused(data: bytes, at: int) -> None:
    decodes_or_is_refused(data, at)


@given(st.sampled_from(b"BCIRYOTUDM"), st.binary(max_size=60))
def test_any_bytes_after_a_known_type_byte_are_a_message_or_refused(letter: int, rest: bytes) -> None:
    decodes_or_is_refused(bytes([letter]) + rest)


@pytest.mark.parametrize("letter", [letter for letter in range(256) if letter not in b"BCIRYOTUDM"])
def test_an_unknown_message_is_refused_by_its_type_byte(letter: int) -> None:
    with pytest.raises(ProtocolError) as raised:
        decode(bytes([letter]) + bytes(40))
    assert repr(bytes([letter])) in raised.value.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (build.begin(1)[:-1], "Begin"),
        (build.commit(1, 2) + b"\0", "Commit"),
        (build.relation()[:-1], "Relation"),
        (build.insert(1, [])[:5], "Insert"),
        (b"I" + build.u32(1) + b"K" + build.tuple_data([]), "Insert"),
        (build.user_type(1, "a", "b")[:-1], "Type"),
        (build.origin(1, "a")[:-1], "Origin"),
        (build.truncate(1)[:-1], "Truncate"),
        (b"T" + build.u32(2**32 - 1) + b"\0", "Truncate"),
        (build.update(1, [])[:3], "Update"),
        (build.delete(1, [])[:3], "Delete"),
        (build.logical_message("p", b"content")[:-1], "Message"),
    ],
)
def test_what_is_refused_is_named(data: bytes, name: str) -> None:
    with pytest.raises(ProtocolError, match=f"malformed pgoutput {name}: "):
        decode(data)


def test_no_bytes_are_no_message() -> None:
    with pytest.raises(ProtocolError, match="empty"):
        decode(b"")


def test_a_name_that_is_no_utf8_does_not_end_in_another_error() -> None:
    message = decode(build.user_type(1, "a", "b").replace(b"b\0", b"\xff\0"))
    assert isinstance(message, pgoutput.Type)


# Tuples


def relation_of(count: int) -> Relation:
    return Relation(1, "public", "outbox", "d", tuple(Column(f"c{number}", build.TEXT) for number in range(count)))


def reader_of(count: int, wanted: Sequence[int]) -> Callable[[bytes, int], object]:
    return compile_reader(relation_of(count), f"({''.join(f'c{position},' for position in wanted)})", wanted, {})


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[bytes | None], list[int]]:
    row = draw(st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=10))
    wanted = draw(st.lists(st.integers(0, len(row) - 1), unique=True, max_size=len(row)))
    return row, wanted


@given(rows(), st.binary(max_size=30))
def test_a_reader_cuts_out_the_wanted_columns_wherever_the_tuple_begins(
    drawn: tuple[list[bytes | None], list[int]], before: bytes
) -> None:
    row, wanted = drawn
    data = before + build.insert(1, row)
    at = len(before) + pgoutput.INSERT_TUPLE_OFFSET
    assert reader_of(len(row), wanted)(data, at) == tuple(row[position] for position in wanted)


@given(rows(), st.data())
def test_a_tuple_that_breaks_off_is_refused(drawn: tuple[list[bytes | None], list[int]], data: st.DataObject) -> None:
    row, wanted = drawn
    message = b"N" + build.tuple_data(row)
    length = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(ProtocolError, match=r"public\.outbox"):
        reader_of(len(row), wanted)(message[:length], 0)


@given(rows(), st.binary(min_size=1, max_size=10))
def test_a_tuple_with_surplus_bytes_is_refused(drawn: tuple[list[bytes | None], list[int]], more: bytes) -> None:
    row, wanted = drawn
    with pytest.raises(ProtocolError, match=r"public\.outbox"):
        reader_of(len(row), wanted)(b"N" + build.tuple_data(row) + more, 0)


@given(rows(), st.data())
def test_a_changed_byte_gives_another_row_or_is_refused(
    drawn: tuple[list[bytes | None], list[int]], data: st.DataObject
) -> None:
    row, wanted = drawn
    message = b"N" + build.tuple_data(row)
    at = data.draw(st.integers(0, len(message) - 1))
    message = message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :]
    try:
        read = reader_of(len(row), wanted)(message, 0)
    except ProtocolError:
        return
    assert isinstance(read, tuple)
    assert len(read) == len(wanted)


@given(rows(), st.integers(-3, 3).filter(bool))
def test_a_tuple_of_another_number_of_columns_is_refused(
    drawn: tuple[list[bytes | None], list[int]], more: int
) -> None:
    row, _ = drawn
    with pytest.raises(ProtocolError):
        reader_of(max(0, len(row) + more), [])(b"N" + build.tuple_data(row), 0)


@pytest.mark.parametrize("told", [0, 1, 3, 258, 512, 0xFF02])
def test_a_count_of_columns_that_lies_is_refused(told: int) -> None:
    cells = build.tuple_data([b"a", b"b"])
    with pytest.raises(ProtocolError):
        reader_of(2, [0, 1])(b"N" + build.u16(told) + cells[2:], 0)


@pytest.mark.parametrize("kind", [b"u", b"b", b"x", b"\0"])
def test_a_cell_that_is_neither_text_nor_null_is_refused(kind: bytes) -> None:
    """Unchanged TOAST never comes in an Insert; binary cells come only when asked for."""
    message = b"N" + build.u16(2) + kind + build.u32(1) + b"1" + b"n"
    with pytest.raises(ProtocolError):
        reader_of(2, [0])(message, 0)


def test_null_and_the_empty_text_are_different() -> None:
    assert reader_of(3, [0, 1, 2])(b"N" + build.tuple_data([None, b"", b"x"]), 0) == (None, b"", b"x")


@pytest.mark.parametrize("count", [255, 256, 257, 300, 1600])
def test_a_row_may_have_as_many_columns_as_a_table(count: int) -> None:
    row: list[bytes | None] = [str(number).encode() for number in range(count)]
    read = reader_of(count, [0, count - 1])
    assert read(b"N" + build.tuple_data(row), 0) == (b"0", str(count - 1).encode())
    with pytest.raises(ProtocolError):
        read(b"N" + build.tuple_data(row[:-1]), 0)


def test_a_table_without_columns_has_rows_too() -> None:
    assert reader_of(0, [])(b"N" + build.tuple_data([]), 0) == ()


def test_a_cell_of_a_megabyte_is_whole() -> None:
    large = bytes(range(256)) * 4096
    assert reader_of(3, [1])(b"N" + build.tuple_data([b"a", large, None]), 0) == (large,)


def test_a_length_that_lies_does_not_reach_into_the_next_cell_unseen() -> None:
    row = b"N" + build.u16(2) + b"t" + build.u32(2**32 - 1) + b"ab" + b"n"
    with pytest.raises(ProtocolError):
        reader_of(2, [0, 1])(row, 0)


def test_nothing_of_a_name_enters_the_compiled_source() -> None:
    """A column's name is data from elsewhere; the reader is made of positions."""
    hostile = Relation(1, "public", 'x"); import os', "d", (Column("'''); raise SystemExit #", build.TEXT),))
    read = compile_reader(hostile, "c0", [0], {})
    assert read(b"N" + build.tuple_data([b"v"]), 0) == b"v"
