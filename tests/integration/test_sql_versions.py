"""What the SQL objects promise from version to version, so that a relay and a writer of any age can use them.

A newer version adds columns that may be left out, and parameters that may be left out. It renames nothing, changes no type,
removes nothing and refuses nothing that was allowed. Each released version is recorded in tests/recorded/sql.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cdc_outbox.commands.install import SQL_VERSION, InstallOptions, apply_install, render_uninstall
from tests.plugins.command import run_command

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

RECORDED = Path(__file__).parents[1] / "recorded" / "sql"
VERSIONS = {int(file.stem.removeprefix("outbox-")): file for file in RECORDED.glob("outbox-*.sql")}


class Column(NamedTuple):
    """As `pg_attribute` has it. `may_be_left_out`: it is nullable, or has a default, or is an identity."""

    type: str
    nullable: bool
    may_be_left_out: bool


class Parameter(NamedTuple):
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Objects:
    """What a version makes, as writers and relays meet it."""

    columns: dict[str, Column]
    constraints: dict[str, str]
    parameters: tuple[Parameter, ...]
    parameters_that_may_be_left_out: int
    returns: str
    publication: tuple[bool, ...]


def objects(database: Database) -> Objects:
    columns = database.execute(
        "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull,"
        " NOT attnotnull OR atthasdef OR attidentity <> ''"
        " FROM pg_attribute WHERE attrelid = 'outbox'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    constraints = database.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'outbox'::regclass AND contype <> 'n'"  # 'n', of 18 on, is what attnotnull tells
    )
    ((names, types, defaults, returns),) = database.execute(
        "SELECT proargnames, (SELECT array_agg(format_type(t, NULL) ORDER BY n)"
        " FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS u (t, n)),"
        " pronargdefaults, format_type(prorettype, NULL)"
        " FROM pg_proc WHERE proname = 'outbox_emit' AND proargtypes[1] = 'text'::regtype"
    )
    (publication,) = database.execute(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = 'cdc_outbox'"
    )
    return Objects(
        columns={name: Column(*rest) for name, *rest in columns},
        constraints=dict(constraints),
        parameters=tuple(map(Parameter, names, types)),
        parameters_that_may_be_left_out=defaults,
        returns=returns,
        publication=publication,
    )


def broken_promises(old: Objects, new: Objects) -> list[str]:
    """What a relay or a writer that knows `old` would stumble over in `new`."""
    found = []
    for name, column in old.columns.items():
        if name not in new.columns:
            found.append(f"column {name} is gone")
        elif (new.columns[name].type, new.columns[name].nullable) != (column.type, column.nullable):
            found.append(f"column {name} has changed")
        elif column.may_be_left_out and not new.columns[name].may_be_left_out:
            found.append(f"column {name} has lost its default")
    added = new.columns.keys() - old.columns.keys()
    found += [f"column {name} is new, and must be given" for name in added if not new.columns[name].may_be_left_out]
    found += [f"constraint {name} is new" for name in new.constraints.keys() - old.constraints.keys()]
    found += [
        f"constraint {name} differs" for name in old.constraints if new.constraints.get(name) != old.constraints[name]
    ]
    before = len(old.parameters)
    if new.parameters[:before] != old.parameters or new.returns != old.returns:
        found.append("outbox_emit is called otherwise")
    if new.parameters_that_may_be_left_out < old.parameters_that_may_be_left_out + len(new.parameters) - before:
        found.append("outbox_emit wants more")
    if new.publication != old.publication:
        found.append("the publication publishes otherwise")
    return found


def test_every_version_before_this_one_is_recorded_as_it_was() -> None:
    assert sorted(VERSIONS) == list(range(1, SQL_VERSION))
    for version, file in VERSIONS.items():
        assert re.findall(r"this_version +constant integer := (\d+);", file.read_text()) == [str(version)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_newer_version_only_adds_what_may_be_left_out_and_an_upgrade_makes_what_an_install_does(
    version: int, database: Database
) -> None:
    database.execute(VERSIONS[version].read_text())
    old = objects(database)
    done = run_command("sql", "upgrade", "--apply", dsn=database.dsn)
    assert (done.returncode, f"from version {version} to {SQL_VERSION}" in done.stderr) == (0, True), done.stderr
    upgraded = objects(database)
    assert broken_promises(old, upgraded) == []
    database.execute(render_uninstall(InstallOptions(), drop_table=True))
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    assert objects(database) == upgraded


def test_a_version_that_breaks_the_promise_would_be_found(database: Database) -> None:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    old = objects(database)
    assert broken_promises(old, old) == []
    columns = dict(old.columns)
    key = columns.pop("aggregateid")
    assert broken_promises(old, replace(old, columns=columns)) == ["column aggregateid is gone"]
    for column in (key._replace(type="uuid"), key._replace(nullable=False, may_be_left_out=False)):
        changed = replace(old, columns={**columns, "aggregateid": column})
        assert broken_promises(old, changed) == ["column aggregateid has changed"]
    more = replace(old, columns={**old.columns, "tenant": Column("text", nullable=False, may_be_left_out=False)})
    assert broken_promises(old, more) == ["column tenant is new, and must be given"]
    assert broken_promises(old, replace(old, constraints={**old.constraints, "c": ""})) == ["constraint c is new"]
    wants = replace(old, parameters=(*old.parameters, Parameter("tenant", "text")))
    assert broken_promises(old, wants) == ["outbox_emit wants more"]
    assert broken_promises(old, replace(old, parameters=old.parameters[1:])) == ["outbox_emit is called otherwise"]
    assert broken_promises(old, replace(old, publication=())) == ["the publication publishes otherwise"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_a_newer_version_is_left_alone_by_an_older_script(version: int, database: Database) -> None:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    before = objects(database)
    with pytest.raises(Exception, match="installed by a newer cdc-outbox"):
        database.execute(VERSIONS[version].read_text())
    assert objects(database) == before
    assert database.execute("SELECT outbox_emit('order', '1', 'A', '{}') IS NOT NULL") == [(True,)]
