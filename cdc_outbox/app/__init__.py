"""Library for applications: write an event in the transaction of the change; consume a message once; test both.

    emit(session, aggregate_type="order", aggregate_id=42, type="OrderPaid", payload={"total": 99.5})
    with once(connection, consumer="mailer", message_id=record_id) as first: ...
    with capture() as events: ...

In: a connection, cursor or session of the application's own: psycopg (also its asyncio classes), asyncpg, SQLAlchemy 2
(also for asyncio), Django. Out: rows, in the transaction of that connection.
Never: a connection of its own, a commit of the application's own statements, an import of a driver, of a framework or of the
rest of cdc_outbox. The folder can be copied into an application without `django/`; it needs the database objects of
`cdc-outbox sql install` (`emit`) and `cdc-outbox sql consumer` (`once`).

`cdc_outbox.app.consumer` has the loop of a consumer group, `cdc_outbox.app.sqlalchemy` the table for Alembic, and
`cdc_outbox.app.django` is a Django app with the migration.
"""

from __future__ import annotations

from .captures import capture
from .encoding import PayloadType
from .errors import OutboxUsageError
from .event import Event
from .identity import uuid7
from .inbox import once
from .outbox import Outbox, emit, emit_many

__all__ = [
    "Event",
    "Outbox",
    "OutboxUsageError",
    "PayloadType",
    "capture",
    "emit",
    "emit_many",
    "once",
    "uuid7",
]
