"""Plain rows: those whose record the native plane can make. Pure.

In: the plan of a relation. Out: its `PlainLayout`, from which `cdc_outbox_native` makes the record that `Route.record` makes.
Never: a second definition of a record. A row is plain if its topic, id and type are not NULL and every column that needs more
than copying is NULL. native/src/plain.c has the same rule; tests/unit/records/test_plain.py compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

from cdc_outbox.records.events import BYTEA, OutboxPlan
from cdc_outbox.records.router import HeaderNames
from cdc_outbox.records.templates import TopicTemplate


class PlainLayout(NamedTuple):
    """The columns from which the record of a relation's row is made; positions count from 0 in the relation's order."""

    oid: int
    columns: int
    """The number of the relation's columns."""
    id: int
    key: int
    type: int
    payload: int
    null: tuple[int, ...]
    """A row is plain only if it has NULL in all of these: headers, timestamp, partition and columns that become headers."""
    literals: tuple[str, ...]
    """Literals of the topic template: one more than it has columns."""
    routing: tuple[int, ...]
    """The columns between the literals."""
    id_name: str
    """The name of the header with the id."""
    type_name: str


def plain_layout(plan: OutboxPlan, template: TopicTemplate, names: HeaderNames) -> PlainLayout | None:
    """Describe a relation's plain rows; None if it has none because a part is bytea, which has to be decoded."""
    at = plan.positions
    copied = (at.id, at.key, at.type, at.payload, *at.routing)
    if any(plan.relation.columns[position].type_oid == BYTEA for position in copied):
        return None
    needs_python = (at.headers, at.timestamp, at.partition, *at.extra)
    return PlainLayout(
        oid=plan.relation.oid,
        columns=len(plan.relation.columns),
        id=at.id,
        key=at.key,
        type=at.type,
        payload=at.payload,
        null=tuple(position for position in needs_python if position is not None),
        literals=template.literals,
        routing=at.routing,
        id_name=names.id,
        type_name=names.type,
    )
