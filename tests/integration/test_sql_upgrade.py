"""`sql upgrade`: from whatever version is there to the newest, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdc_outbox.commands.install import SQL_VERSION, InstallOptions, apply_install
from cdc_outbox.commands.installation import read_installation
from tests.plugins.command import run_command

if TYPE_CHECKING:
    import subprocess

    from tests.plugins.postgres import Database


def upgrade(database: Database, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_command("sql", "upgrade", *more, dsn=database.dsn)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("options", [InstallOptions(payload_type="jsonb"), InstallOptions(partitioned=True)], ids=repr)
def test_an_older_version_becomes_the_newest_and_rows_stay(database: Database, options: InstallOptions) -> None:
    apply_install(database.dsn, options, pytest.fail)
    database.execute("SELECT outbox_emit('order', '1', 'A', '{}')")
    assert "nothing to do" in upgrade(database, "--apply").stderr
    database.execute(
        "COMMENT ON TABLE outbox IS 'Ours. cdc-outbox:1';"
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname = 'outbox_emit' LOOP"
        " EXECUTE 'DROP FUNCTION ' || f; END LOOP; END $$;"
        f"CREATE FUNCTION outbox_emit(text, text, text, {options.payload_type}, jsonb) RETURNS uuid"
        " LANGUAGE sql AS 'SELECT null::uuid'"
    )
    printed = upgrade(database)
    assert "CREATE OR REPLACE FUNCTION public.outbox_emit" in printed.stdout
    assert read_installation(database.dsn, InstallOptions()).version == 1
    done = upgrade(database, "--apply")
    assert f"from version 1 to {SQL_VERSION}" in done.stderr
    assert read_installation(database.dsn, InstallOptions()).version == SQL_VERSION
    assert database.execute("SELECT type, outbox_emit('order', '1', 'B', '{}') IS NOT NULL FROM outbox") == [
        ("A", True)
    ]
    again = upgrade(database)
    assert (again.stdout, "nothing to do" in again.stderr) == ("", True)


def test_what_cannot_be_upgraded_is_refused(database: Database) -> None:
    assert "cdc-outbox sql install" in upgrade(database, code=78).stderr
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    database.execute("COMMENT ON TABLE outbox IS 'cdc-outbox:99'")
    assert "newer cdc-outbox" in upgrade(database, "--apply", code=78).stderr
    database.execute("COMMENT ON TABLE outbox IS NULL; ALTER TABLE outbox ALTER payload TYPE xml USING NULL")
    assert "of type xml" in upgrade(database, "--apply", code=78).stderr
