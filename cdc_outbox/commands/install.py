"""The SQL that prepares a database: rendered for other names than the default ones, and applied.

In: names and a payload type (`InstallOptions`); for applying, a DSN.
Out: SQL text that any driver runs in one go.
Never: SQL that is not in `sql/`. The text comes from there, or from `cdc_outbox/_sql` of an installed wheel.

The files are valid SQL for the default names. Each occurrence of a name is found by the SQL around it
(`_places`): a qualified name, the word after SCHEMA or PUBLICATION, a constant declared at the head of a DO block. All
places are replaced in one pass, so nothing that was put in is looked at again, and a name put in is always a quoted
identifier or a quoted literal. Names that no quoting makes safe in both a comment and a dollar-quoted block are refused.

PostgreSQL manual: 4.1.1 Identifiers and Key Words, 4.1.2.4 Dollar-Quoted String Constants, CREATE PUBLICATION.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from cdc_outbox.config.settings import DEFAULT_TABLE
from cdc_outbox.config.shards import Shard
from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError
from cdc_outbox.identifiers import NAME_BYTES, TableName, quote_identifier, quote_literal
from cdc_outbox.postgres import connect

PayloadType: TypeAlias = Literal["json", "jsonb", "text", "bytea"]

PAYLOAD_TYPES: Final[tuple[PayloadType, ...]] = get_args(PayloadType)

DEFAULT_NAME: Final = "cdc_outbox"
"""Of the slot and of the publication."""

DEFAULT_PREFIX: Final = "outbox"
"""Of logical messages."""

PREFIX_BYTES: Final = 1000
"""PostgreSQL has no limit for a prefix; each message carries it."""

SQL_VERSION: Final = 4
"""What `sql/outbox.sql` writes into the table's comment. A change of its objects counts it up, there and here."""

ROLES: Final = ("cdc_outbox_writer", "cdc_outbox_relay", "cdc_outbox_pruner")

_DOLLAR_QUOTES: Final = ("$pinned$", "$script$", "$body$")
"""Tags of dollar-quoted strings in `sql/`, from the outermost inwards."""

EMIT_SUFFIX: Final = "_emit"

DELETE_SUFFIX: Final = "_delete"
"""Of the trigger function of `--delete-after-insert`."""

CLAIM_SUFFIX: Final = "_claim"
PRUNE_SUFFIX: Final = "_prune"

DEFAULT_INBOX: Final = TableName("public", "inbox")


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What the SQL is rendered for. Raises ConfigurationError for a name that PostgreSQL would cut, or that is not safe."""

    table: TableName = DEFAULT_TABLE
    publication: str = DEFAULT_NAME
    slot: str = DEFAULT_NAME
    payload_type: PayloadType = "json"
    source: str = "table"
    """`message`: no table is created; the function's name is derived from the table's. Otherwise: create the table."""
    message_prefix: str = DEFAULT_PREFIX
    shards: int = 0
    """Number of additional publications, one for each shard of the keys; 0: none."""
    partitioned: bool = False
    """Partition by day, over created_at."""
    delete_after_insert: bool = False
    """Delete each row by a trigger in the same transaction: the table stays empty."""

    def __post_init__(self) -> None:
        _check_name("schema", self.table.schema)
        _check_name("table", self.table.name, NAME_BYTES - len(EMIT_SUFFIX))
        _check_name("publication", self.publication)
        _check_name("prefix", self.message_prefix, PREFIX_BYTES)
        if self.shards:
            Shard(self.shards - 1, self.shards).name(self.publication)
            if self.source == "message":
                raise ConfigurationError(
                    "logical messages have no shards: a publication does not filter them",
                    code="shard-messages",
                    cure="leave out --shards",
                )
        if self.delete_after_insert:
            _check_name("table", self.table.name, NAME_BYTES - len(DELETE_SUFFIX))
            self._check_rows()
        if not re.fullmatch(rf"[a-z0-9_]{{1,{NAME_BYTES}}}", self.slot):
            raise ConfigurationError(
                f"not a name for a slot: {self.slot!r}",
                code="name-invalid",
                cure=f"use lower-case letters, digits and underscores, at most {NAME_BYTES}",
            )

    def _check_rows(self) -> None:
        if self.source == "message":
            raise ConfigurationError(
                "logical messages have no rows to delete", code="rows-no-table", cure="leave out --delete-after-insert"
            )
        if self.partitioned:
            raise ConfigurationError(
                "rows that are deleted at once need no partitions",
                code="rows-no-table",
                cure="leave out --partitioned, or --delete-after-insert if rows are to stay until they are pruned",
            )

    @property
    def emit_function(self) -> TableName:
        """The function that writes into the table: `public.outbox_emit` for `public.outbox`."""
        return emit_function(self.table)


def emit_function(table: TableName) -> TableName:
    """The name of a table's emit function, in its schema: each table has its own, so one cannot take another's place."""
    return TableName(table.schema, f"{table.name}{EMIT_SUFFIX}")


def render_install(options: InstallOptions) -> str:
    """`outbox.sql`: table, emit function, publication; then the chosen extras. Or `message.sql`: without the table."""
    text = _render("message" if options.source == "message" else "outbox", options)
    if options.partitioned:
        text = _partitioned(text) + _render("partitions", options)
    if options.delete_after_insert:
        text += f"\n{_render('delete_after_insert', options)}"
    return text + (f"\n{_render('shards', options)}" if options.shards else "")


def _partitioned(text: str) -> str:
    """`outbox.sql` with a table that is partitioned by day: its key has to be part of the primary key."""
    for whole, of_parts in _OF_PARTS:
        if text.count(whole) != 1:
            raise ConfigurationError(
                "logical messages have no table to partition", code="messages-no-table", cure="leave out --partitioned"
            )
        text = text.replace(whole, of_parts)
    return text


_OF_PARTS: Final = (
    ("GENERATED ALWAYS AS IDENTITY PRIMARY KEY,", "GENERATED ALWAYS AS IDENTITY,"),
    (
        "CHECK (jsonb_typeof(headers) = 'object')\n);",
        "CHECK (jsonb_typeof(headers) = 'object'),\n    PRIMARY KEY (seq, created_at)\n) PARTITION BY RANGE (created_at);",
    ),
)
"""Texts of `outbox.sql` and their replacements for a partitioned table."""


def render_roles(options: InstallOptions) -> str:
    """`roles.sql`: the roles and what they are granted. To be run after `render_install`."""
    return _render("roles", options)


def render_uninstall(options: InstallOptions, *, drop_table: bool = False, drop_roles: bool = False) -> str:
    """`uninstall.sql`: slot, publication, function; the table and the roles only on request."""
    return _render("uninstall", options, drop_table=drop_table, drop_roles=drop_roles)


def render_consumer(inbox: TableName = DEFAULT_INBOX) -> str:
    """`consumer.sql`: inbox table, claim function, prune function. Raises ConfigurationError as `InstallOptions` does."""
    _check_name("schema", inbox.schema)
    _check_name("inbox", inbox.name, NAME_BYTES - max(len(CLAIM_SUFFIX), len(PRUNE_SUFFIX)))
    return _fill("consumer", _table_places(DEFAULT_INBOX, inbox, CLAIM_SUFFIX, PRUNE_SUFFIX))


def read_sql(name: str) -> str:
    """The text of `sql/<name>.sql`: inside an installed package, or beside it in a checkout."""
    for folder in (resources.files("cdc_outbox") / "_sql", Path(__file__).parents[2] / "sql"):
        file = folder / f"{name}.sql"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ConfigurationError(
        f"{name}.sql is not part of this installation", code="installation", cure="install cdc-outbox again"
    )


class _Place(NamedTuple):
    """A replaceable text of the files: `default`, preceded by `before` (a pattern, which is kept)."""

    before: str
    default: str
    value: str


def _render(name: str, options: InstallOptions, *, drop_table: bool = False, drop_roles: bool = False) -> str:
    return _fill(name, [*_places(options), *_switches(drop_table=drop_table, drop_roles=drop_roles)])


def _fill(name: str, places: list[_Place]) -> str:
    """The file with its places filled; as it is, if there are none."""
    if not places:
        return read_sql(name)
    anywhere = "|".join(rf"(?<![\w.$\"'])({place.before})({re.escape(place.default)})(?![\w.$\"'])" for place in places)

    def fill_in(match: re.Match[str]) -> str:
        last = match.lastindex or 0  # two groups a place: what stands before it, and the default
        return match[last - 1] + places[last // 2 - 1].value

    return re.sub(anywhere, fill_in, read_sql(name))


def _places(options: InstallOptions) -> list[_Place]:
    default = InstallOptions()
    places = [
        _Place(r"payload\s+", "json", options.payload_type),
        _declared("payload_type", "json", options.payload_type),
        _declared("message_prefix", DEFAULT_PREFIX, options.message_prefix),
        *_table_places(default.table, options.table, EMIT_SUFFIX, DELETE_SUFFIX),
    ]
    if options.publication != default.publication:
        places += [
            _Place("PUBLICATION (?:IF EXISTS )?", DEFAULT_NAME, quote_identifier(options.publication)),
            _declared("publication_name", DEFAULT_NAME, options.publication),
        ]
    if options.shards:
        places.append(_Place(r"shards\s+constant integer := ", "2", str(options.shards)))
    return [*places, _declared("relay_slot", DEFAULT_NAME, options.slot)]


def _table_places(default: TableName, table: TableName, *suffixes: str) -> list[_Place]:
    """Occurrences of a table, its schema and its functions (the table's name and a suffix)."""
    if table == default:
        return []
    schema = quote_identifier(table.schema)
    return [
        _Place("", str(default), table.quoted),
        _Place("", quote_literal(str(default)), quote_literal(table.quoted)),
        *(_Place("", f"{default}{suffix}", TableName(table.schema, table.name + suffix).quoted) for suffix in suffixes),
        *(
            _Place(
                "",
                quote_literal(f"{default}{suffix}"),
                quote_literal(TableName(table.schema, table.name + suffix).quoted),
            )
            for suffix in suffixes
        ),
        _Place("SCHEMA ", default.schema, schema),
        _Place("", quote_literal(default.schema), quote_literal(schema)),
    ]


def _switches(**switches: bool) -> list[_Place]:
    return [_Place(rf"{name}\s+constant boolean := ", "false", str(on).lower()) for name, on in switches.items()]


def _declared(name: str, default: str, value: str) -> _Place:
    """A constant at the head of a DO block."""
    return _Place(rf"{name}\s+constant \w+ := ", quote_literal(default), quote_literal(value))


def _check_name(kind: str, name: str, limit: int = NAME_BYTES) -> None:
    """A line break would end a comment, a tag of a dollar quote a block; a backslash means two things in a literal."""
    if not name.isprintable() or "\\" in name or any(tag in name for tag in _DOLLAR_QUOTES):
        raise ConfigurationError(
            f"not a name that can stand in a script: {kind} {name!r}",
            code="name-invalid",
            cure=f"choose one without control characters, backslashes and {', '.join(_DOLLAR_QUOTES)}",
        )
    if not 0 < len(name.encode()) <= limit:
        raise ConfigurationError(
            f"the name of the {kind} is too long or empty: {name!r}",
            code="name-invalid",
            cure=f"choose one of at most {limit} bytes",
        )


# --- applied -----------------------------------------------------------------------------------------------------------


def apply_install(dsn: str, options: InstallOptions, warn: Callable[[str], None]) -> None:
    """Run `render_install` in one transaction. `warn` gets the server's warnings. Raises CdcOutboxError."""
    database_owner = "run it as the table's owner, with CREATE on the database: GRANT CREATE ON DATABASE NAME TO OWNER"
    _apply(dsn, render_install(options), database_owner, warn)


_NOT_THERE: Final = frozenset({"42883", "42P01", "3F000"})
"""SQLSTATE of a function, a table or a schema that is missing."""


def apply_roles(dsn: str, options: InstallOptions, warn: Callable[[str], None]) -> None:
    """Run `render_roles` in one transaction."""
    try:
        _apply(
            dsn, render_roles(options), "run it as a superuser: cdc-outbox sql roles | psql -v ON_ERROR_STOP=1", warn
        )
    except ConfigurationError as error:
        if error.where.get("sqlstate") in _NOT_THERE:
            error.cure = "first cdc-outbox sql install --apply"
        raise


def apply_consumer(dsn: str, warn: Callable[[str], None], inbox: TableName = DEFAULT_INBOX) -> None:
    """Run `render_consumer` in one transaction."""
    _apply(dsn, render_consumer(inbox), "run it as the table's owner, with CREATE on the schema", warn)


def apply_uninstall(
    dsn: str,
    options: InstallOptions,
    warn: Callable[[str], None],
    *,
    drop_table: bool = False,
    drop_roles: bool = False,
) -> None:
    """Run `render_uninstall`. Raises SlotBusy, with nothing done, while a relay streams from the slot."""
    owner = "run it as a superuser, or as the table's owner with REPLICATION"
    _apply(dsn, render_uninstall(options, drop_table=drop_table, drop_roles=drop_roles), owner, warn)


def _apply(dsn: str, text: str, cure: str, warn: Callable[[str], None]) -> None:
    """Execute in one round trip, so in one transaction. `cure` is for a missing privilege."""
    try:
        with connect.open_connection(dsn) as connection:
            connection.add_notice_handler(
                lambda notice: (
                    warn(_sentence(notice.message_primary, notice.message_detail, notice.message_hint))
                    if notice.severity_nonlocalized == "WARNING"
                    else None
                )
            )
            with connection.long_query():
                connection.execute(text.encode())
    except CdcOutboxError as error:
        if error.__cause__ is None:  # there was no session yet: the error knows its cure
            raise
        if isinstance(error, AccessRefused):
            error.cure = cure
        raise


def _sentence(*parts: str | None) -> str:
    """A warning, its detail and its hint in one line."""
    return "; ".join(" ".join(part.split()) for part in parts if part)
