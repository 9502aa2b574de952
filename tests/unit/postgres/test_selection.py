"""Which rows are meant: what is typed wrong is said before the server is asked."""

from __future__ import annotations

import pytest

from cdc_outbox.config.settings import Columns
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres.selection import Selection, condition
from cdc_outbox.postgres.table_rows import TableShape

UUID_OID = 2950
TEXT_OID = 25


def shape(id_oid: int) -> TableShape:
    return TableShape(TableName("public", "outbox"), 1, (("id", id_oid), ("aggregateid", TEXT_OID)))


@pytest.mark.parametrize("text", ["nonsense", "", "01a207b6-8329-7897-99bd-428955e6b3e"])
def test_an_id_that_is_no_uuid_is_named_with_its_column(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"column id holds uuids, and '{text}' is none") as refused:
        condition(Selection(ids=(text,)), shape(UUID_OID), Columns())
    assert refused.value.cure


@pytest.mark.parametrize("text", ["01A207B6-8329-7897-99BD-428955E6B3ED", "{01a207b68329789799bd428955e6b3ed}"])
def test_every_spelling_of_a_uuid_will_do(text: str) -> None:
    condition(Selection(ids=(text,)), shape(UUID_OID), Columns())


def test_an_id_that_is_text_may_be_anything() -> None:
    condition(Selection(ids=("order-42",)), shape(TEXT_OID), Columns())
