"""examples/languages: each program run on a real database, with its commit, its rollback, and the relay behind it.

Without a language's toolchain the test is skipped, and fails in CI. What the programs depend on is fetched once.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles
from tests.docs.pages import ROOT, read
from tests.docs.test_application_pages import url
from tests.examples.toolchains import Program, go, java, node
from tests.plugins.command import environment

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(300)]

HERE: Final = ROOT / "examples" / "languages"
PAGE: Final = "docs/how-to/emit-from-other-languages.md"
MORE: Final = "docs/how-to/emit-from-more-languages.md"

PROGRAMS: Final[dict[str, Callable[[], Program]]] = {
    "go": lambda: go(HERE / "go"),
    "node": lambda: node(HERE / "node", "register.js"),
    "java": lambda: java(HERE / "java", "Register", "-Werror"),
}


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_event_is_committed_with_the_change_or_not_at_all(
    language: str, database: Database, kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    program = PROGRAMS[language]()
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    apply_roles(database.dsn, InstallOptions(), pytest.fail)
    role = f"shop_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'only-a-test' IN ROLE cdc_outbox_writer")
    database.execute(f"CREATE TABLE customers (id text PRIMARY KEY, name text); GRANT INSERT ON customers TO {role}")
    user, _, server = url(database).removeprefix("postgresql://").partition("@")
    assert user
    where = f"postgresql://{role}:only-a-test@{server}"
    if language == "java":
        where = f"jdbc:postgresql://{server}?user={role}&password=only-a-test"

    def register(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, "42", name],
            env=environment({"DATABASE_URL": where}),
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        first = register('Ada "Countess" Lovelace é')
        assert first.returncode == 0, first.stderr
        assert register("Mallory").returncode != 0, "the id is taken"

        topic = kafka.unique_topic_prefix() + "{aggregatetype}"
        done = relay("--until", "caught-up", "--topic", topic, database=database, kafka=kafka)
        assert done.wait() == 0, done.stderr_text
        (record,) = kafka.consume(topic.format(aggregatetype="customer"), 1)
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert record.key == b"42"
    assert json.loads(record.value or b"") == {"id": "42", "name": 'Ada "Countess" Lovelace é'}
    assert record.header("type") == b"CustomerRegistered"
    assert database.execute("SELECT name FROM customers") == [('Ada "Countess" Lovelace é',)]
    moved = database.execute("SELECT last_value FROM outbox_seq_seq")
    assert moved == [(2,)], "the second event had been written, and was rolled back"


# --- the page ----------------------------------------------------------------------------------------------------------

RUN: Final = {"go": "go/main.go", "js": "node/register.js", "java": "java/Register.java"}


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("language", RUN)
def test_the_page_shows_what_is_run(language: str) -> None:
    (shown,) = [each for each in read(PAGE).blocks if each.language == language]
    assert words(shown.text) in words((HERE / RUN[language]).read_text(encoding="utf-8"))


def test_programs_that_are_only_shown_call_the_function_with_its_arguments(database: Database) -> None:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    shown = [each for each in read(MORE).blocks if each.language in {"ruby", "csharp", "php", "rust"}]
    assert len(shown) == 4
    for each in shown:
        (arguments,) = re.findall(r"SELECT outbox_emit\(([^)]*)\)", each.text)
        casts = [argument.partition("::")[2] for argument in arguments.split(",")]
        numbered = ", ".join(f"${n}" + (f"::{cast.strip()}" if cast else "") for n, cast in enumerate(casts, start=1))
        database.execute(f"PREPARE shown AS SELECT outbox_emit({numbered})")
