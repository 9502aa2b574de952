"""`cdc-outbox sql …`: print the SQL that prepares a database, or run it (`--apply`); show the installed objects.

stdout is the SQL, to be piped or put into a migration; messages go to stderr. No logic: see `commands.install`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cdc_outbox.cli.options import (
    CONTEXT,
    SettingsCommand,
    complete_cure,
    dsn_option,
    option,
    publication_option,
    reveal,
    slot_option,
    table_option,
)

if TYPE_CHECKING:
    from cdc_outbox.commands.install import InstallOptions, PayloadType
    from cdc_outbox.commands.installation import Installation
    from cdc_outbox.config.value_types import Secret
    from cdc_outbox.identifiers import TableName

apply_option = click.option("--apply", is_flag=True, help="Run it on the database of --dsn, instead of printing it.")


@click.group("sql", context_settings=CONTEXT)
def command() -> None:
    """The SQL that prepares a database: outbox table, emit function, publication, roles; an inbox for consumers.

    Prints it, for psql or your migrations; with --apply, runs it. Objects first, roles after them.
    """


@command.command(cls=SettingsCommand)
@apply_option
@click.option(
    "--payload-type",
    type=click.Choice(["json", "jsonb", "text", "bytea"]),
    default="json",
    envvar="CDC_OUTBOX_PAYLOAD_TYPE",
    show_envvar=True,
    show_default=True,
    help="Type of the payload column. json and text keep every byte, jsonb reorders keys.",
)
@click.option(
    "--shards",
    type=click.IntRange(2, 64),
    help="Number of additional publications, one per relay, each for its share of the keys (PostgreSQL 15 and later).",
)
@click.option("--partitioned", is_flag=True, help="Partition the table by day, so that prune drops whole days.")
@click.option(
    "--delete-after-insert",
    is_flag=True,
    help="Delete each row in the transaction that inserts it: no prune, and nothing to recover or to replay.",
)
@publication_option
@option("message-prefix")
@option("source")
@table_option
@dsn_option
def install(
    dsn: Secret | None,
    table: TableName,
    source: str,
    message_prefix: str,
    publication: str,
    payload_type: PayloadType,
    shards: int | None,
    *,
    apply: bool,
    partitioned: bool,
    delete_after_insert: bool,
) -> None:
    """Table, emit function and publication. Idempotent, also as a migration.

    With --source message: no table, and a function of the same name and parameters that writes logical messages.
    """
    from cdc_outbox.commands.install import InstallOptions, apply_install, render_install

    options = InstallOptions(
        table=table,
        publication=publication,
        payload_type=payload_type,
        source=source,
        message_prefix=message_prefix,
        shards=shards or 0,
        partitioned=partitioned,
        delete_after_insert=delete_after_insert,
    )
    if not apply:
        click.echo(render_install(options), nl=False)
        return
    apply_install(reveal(dsn), options, _warn)
    made = "no table" if source == "message" else f"table {table}"
    _log(f"installed: {made}, function {options.emit_function}, publication {publication}")
    if delete_after_insert:
        _warn("rows are deleted as they are inserted: create the slot before the first event (cdc-outbox slot create)")


@command.command(cls=SettingsCommand)
@apply_option
@table_option
@dsn_option
def roles(dsn: Secret | None, table: TableName, *, apply: bool) -> None:
    """A role that may only emit, one that may only stream, one that may prune. After `install`, by an administrator."""
    from cdc_outbox.commands.install import ROLES, InstallOptions, apply_roles, render_roles

    options = InstallOptions(table=table)
    if not apply:
        click.echo(render_roles(options), nl=False)
        return
    apply_roles(reveal(dsn), options, _warn)
    _log(f"granted on {table}: {', '.join(ROLES)}. The relay's password is yours to set.")


@command.command(cls=SettingsCommand)
@apply_option
@click.option(
    "--inbox",
    metavar="TABLE",
    default="public.inbox",
    envvar="CDC_OUTBOX_INBOX",
    show_envvar=True,
    show_default=True,
    help="Table of the consumed messages.",
)
@dsn_option
def consumer(dsn: Secret | None, inbox: str, *, apply: bool) -> None:
    """For consumers: an inbox table, and a function that claims a message once. In the consumer's own database."""
    from cdc_outbox.commands.install import apply_consumer, render_consumer
    from cdc_outbox.identifiers import parse_table

    try:
        table = parse_table(inbox)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--inbox") from None
    if not apply:
        click.echo(render_consumer(table), nl=False)
        return
    apply_consumer(reveal(dsn), _warn, table)
    _log(f"installed: table {table}, its functions to claim and to prune")


@command.command(cls=SettingsCommand)
@apply_option
@click.option("--drop-table", is_flag=True, help="Drop the table and its rows too.")
@click.option("--drop-roles", is_flag=True, help="Drop the roles too.")
@slot_option
@publication_option
@table_option
@dsn_option
def uninstall(
    dsn: Secret | None,
    table: TableName,
    publication: str,
    slot: str,
    *,
    apply: bool,
    drop_table: bool,
    drop_roles: bool,
) -> None:
    """Drop the slot, then publication and function. Keeps the table by default. Refused while a relay streams."""
    from cdc_outbox.commands.install import InstallOptions, apply_uninstall, render_uninstall

    options = InstallOptions(table=table, publication=publication, slot=slot)
    if not apply:
        click.echo(render_uninstall(options, drop_table=drop_table, drop_roles=drop_roles), nl=False)
        return
    apply_uninstall(reveal(dsn), options, _warn, drop_table=drop_table, drop_roles=drop_roles)
    _log(f"uninstalled{'' if drop_table else f'; table {table} is still there, with its rows (--drop-table)'}")


@command.command(cls=SettingsCommand)
@apply_option
@publication_option
@table_option
@dsn_option
def upgrade(dsn: Secret | None, table: TableName, publication: str, *, apply: bool) -> None:
    """Upgrade the database's objects to the newest version. Keeps rows and grants.

    Reads the installed version, and prints the upgrade script if one is needed. The relay may run meanwhile.
    """
    from cdc_outbox.commands.install import InstallOptions, apply_install
    from cdc_outbox.commands.upgrade import find_upgrade

    found = find_upgrade(reveal(dsn), InstallOptions(table=table, publication=publication))
    if found.script is None:
        _log(f"nothing to do: table {table} has version {found.version}")
    elif not apply:
        click.echo(found.script, nl=False)
    else:
        apply_install(reveal(dsn), found.options, _warn)
        _log(f"upgraded: table {table} from version {found.version or 'unknown'} to {found.newest}")


@command.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@publication_option
@option("source")
@table_option
@dsn_option
def status(dsn: Secret | None, table: TableName, source: str, publication: str, *, as_json: bool) -> int:
    """Show the installed objects and their version. Exit code 1 if `install` would change something."""
    from cdc_outbox.commands.install import InstallOptions
    from cdc_outbox.commands.installation import read_installation

    options = InstallOptions(table=table, publication=publication, source=source)
    found = read_installation(reveal(dsn), options)
    if as_json:
        click.echo(json.dumps(_document(options, found)))
    else:
        for kind, name, state in _lines(options, found):
            click.echo(f"{kind:<12} {name:<28} {state}")
    if found.complete_for(source):
        return 0
    _log(complete_cure(click.get_current_context(), "to complete it: cdc-outbox sql install --apply"))
    return 1


def _lines(options: InstallOptions, found: Installation) -> list[tuple[str, str, str]]:
    """Kind, name and state of each object."""
    from cdc_outbox.commands.install import ROLES, SQL_VERSION

    version = f"version {found.version} of {SQL_VERSION}" if found.version else "not installed by cdc-outbox"
    publishes = "publishes the table" if found.published else "does not publish the table"
    as_installed = "" if found.options_as_installed else ", options differ"
    if options.source == "message":
        table, publishes = "not needed" if not found.table else "there, and not needed", "there"
    else:
        kept = ", rows are deleted after insert" if found.delete_after_insert else ""
        table = f"{version}, payload {found.payload_type}{kept}" if found.table else "missing"
    function = "there" if found.keys else "there, for text keys only"
    return [
        ("table", str(options.table), table),
        ("function", str(options.emit_function), function if found.function else "missing"),
        ("publication", options.publication, f"{publishes}{as_installed}" if found.publication else "missing"),
        *(("role", role, "there" if role in found.roles else "missing (needed only if you use it)") for role in ROLES),
    ]


def _document(options: InstallOptions, found: Installation) -> dict[str, object]:
    from cdc_outbox.commands.install import ROLES, SQL_VERSION

    return {
        "table": {
            "name": str(options.table),
            "exists": found.table,
            "payload_type": found.payload_type,
            "delete_after_insert": found.delete_after_insert,
        },
        "function": {"name": str(options.emit_function), "exists": found.function},
        "publication": {
            "name": options.publication,
            "exists": found.publication,
            "publishes_table": found.published,
            "options_as_installed": found.options_as_installed,
        },
        "roles": {role: role in found.roles for role in ROLES},
        "version": found.version,
        "newest_version": SQL_VERSION,
        "complete": found.complete_for(options.source),
    }


def _log(message: str) -> None:
    click.echo(message, err=True)


def _warn(text: str) -> None:
    _log(f"warning: {text}")
