"""`tail` reads the stream as the relay does: the same protocol errors, with the LSN of the transaction."""

from __future__ import annotations

import os

import pytest

from cdc_outbox.commands.tail import Output, Tail
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import ProtocolError
from tests.plugins import wire_builder as build
from tests.plugins.scripted import RELATION, Clock, ScriptedStop, ScriptedStream, begin, commit, insert, transaction


@pytest.mark.parametrize(
    ("broken", "message", "lsn"),
    [
        ([b"x" + bytes(30)], "CopyData message of an unknown type", None),
        ([build.xlogdata(b"")], "XLogData", None),
        ([b""], "message of 0 bytes", None),
        ([begin(200), build.xlogdata(b"")], "XLogData", "0/C8"),
        ([begin(200), commit(204)], "announced for 0/C8", "0/C8"),
        ([begin(200), begin(300)], "a Begin inside a transaction", "0/C8"),
        ([insert("e2")], "an event outside a transaction", None),
        ([begin(200), build.xlogdata(build.insert(4711, [b"1"]))], "relation 4711, which was never described", "0/C8"),
    ],
)
def test_a_message_that_violates_the_protocol_ends_it_after_the_events_before(
    broken: list[bytes], message: str, lsn: str | None
) -> None:
    clock = Clock()
    stream = ScriptedStream(clock, [RELATION, *transaction(100, "e1"), *broken])
    reader, writer = os.pipe()
    try:
        stop = ScriptedStop(clock)
        tail = Tail(Settings(brokers="b"), Output(writer), stop, pytest.fail, from_now=True, limit=None)
        with pytest.raises(ProtocolError, match=message) as raised:
            tail._follow(stream)
        assert raised.value.where.get("lsn") == lsn
    finally:
        os.close(reader)
        os.close(writer)
