"""The outbox table for SQLAlchemy, column by column as `sql/outbox.sql` makes it.

In: the application's MetaData. Out: a Table in it, so that Alembic's autogenerate finds nothing to change about the table.
Never: the emit function and the publication. The SQL makes them, in a migration: `cdc-outbox sql install` prints it.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import conv
from sqlalchemy.types import TypeEngine

from .encoding import PayloadType
from .errors import OutboxUsageError

SQL_VERSION: Final = 4
"""The version that `sql/outbox.sql` of this release writes into the comment of the table."""

_COMMENT: Final = f"Transactional outbox: every row becomes a Kafka record. cdc-outbox:{SQL_VERSION}"


def outbox_table(
    metadata: sa.MetaData, name: str = "outbox", schema: str | None = None, payload: PayloadType = "json"
) -> sa.Table:
    """Add the outbox table to `metadata`.

    `schema=None`: the default schema of the connection. `payload`: the type of the column, as given to `sql install`.
    """
    return sa.Table(
        name,
        metadata,
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("id", sa.Uuid, nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        sa.Column("aggregatetype", sa.Text, nullable=False),
        sa.Column("aggregateid", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("payload", _payload(payload)),
        sa.Column("headers", postgresql.JSONB(none_as_null=True)),
        sa.CheckConstraint("aggregatetype <> ''", name=conv("aggregatetype_is_not_empty")),
        sa.CheckConstraint("jsonb_typeof(headers) = 'object'", name=conv("headers_is_an_object")),
        schema=schema,
        comment=_COMMENT,
    )


def _payload(payload: PayloadType) -> TypeEngine[Any]:
    types: dict[PayloadType, TypeEngine[Any]] = {
        "json": postgresql.JSON(none_as_null=True),
        "jsonb": postgresql.JSONB(none_as_null=True),
        "text": sa.Text(),
        "bytea": postgresql.BYTEA(),
    }
    if payload not in types:
        raise OutboxUsageError(f"payload is one of {', '.join(types)}, not {payload!r}")
    return types[payload]
