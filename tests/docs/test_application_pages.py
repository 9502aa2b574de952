"""The pages for application teams, each followed from top to bottom: every block of it is run, in its order."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cdc_outbox.commands.install import InstallOptions, apply_consumer, apply_install
from tests.docs.pages import block, read
from tests.plugins.command import environment
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

PSYCOPG: Final = "docs/how-to/emit-from-psycopg.md"
ASYNCPG: Final = "docs/how-to/emit-from-asyncpg.md"
SQLALCHEMY: Final = "docs/how-to/emit-from-sqlalchemy.md"
DJANGO: Final = "docs/how-to/emit-from-django.md"
REGISTER: Final = "docs/how-to/register-events.md"
CONSUME: Final = "docs/how-to/consume-once.md"


def url(database: Database, scheme: str = "postgresql") -> str:
    """The superuser's DSN as a URL, which every driver reads."""
    parts = psycopg.conninfo.conninfo_to_dict(database.dsn)
    return sa.URL.create(
        scheme, str(parts["user"]), str(parts["password"]), str(parts["host"]), int(parts["port"] or 0), database.name
    ).render_as_string(hide_password=False)


@pytest.fixture
def shop(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Database:
    """A reader's database, with a table and a role of the reader's own; DSN and DATABASE_URL say where it is."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total float NOT NULL)")
    database.execute("CREATE ROLE my_service; CREATE ROLE my_consumer")
    monkeypatch.setenv("DSN", url(database))
    monkeypatch.setenv("DATABASE_URL", url(database, "postgresql+psycopg"))
    monkeypatch.chdir(tmp_path)
    return database


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, database: Database, shell: Shell) -> None:
        self.database = database
        self.names: dict[str, Any] = {"__name__": "reader"}
        self._shell = shell

    def follow(self, page: str, after: dict[str, Callable[[], object]] | None = None) -> None:
        """Run the blocks of a page. `after`: what the reader does after the block that has this line."""
        left = dict(after or {})
        for each in read(page).blocks:
            if each.language == "sh":
                self._shell(each.text, DSN=url(self.database))
            elif each.language == "sql":
                self.database.execute(each.text)
            else:
                assert each.language == "python", f"{each}: who runs it?"
                exec(compile(each.text, str(each), "exec", dont_inherit=True), self.names)
            for line in [line for line in left if line in each.text.splitlines()]:
                left.pop(line)()
        assert not left, f"no block has {list(left)}"

    def run_tests(self) -> list[str]:
        """Run the test functions that were typed, each with a connection if it takes one. Their names."""
        tests = {name: each for name, each in self.names.items() if name.startswith("test_")}
        for test in tests.values():
            with psycopg.connect(self.database.dsn) as connection:
                test(*([connection] if inspect.signature(test).parameters else []))
        return list(tests)

    def outbox(self) -> list[tuple[Any, ...]]:
        return self.database.execute("SELECT aggregatetype, aggregateid, type, payload::text FROM outbox ORDER BY seq")


@pytest.fixture
def reader(shop: Database, shell: Shell) -> Reader:
    return Reader(shop, shell)


def placed(order: int, total: str) -> tuple[str, str, str, str]:
    return ("order", str(order), "OrderPlaced", f'{{"order":{order},"total":{total}}}')


def test_the_page_for_psycopg(reader: Reader) -> None:
    reader.follow(PSYCOPG)

    assert reader.outbox() == [placed(42, "99.5"), placed(43, "10")]
    assert reader.database.execute("SELECT id FROM orders ORDER BY 1") == [(42,), (43,)]
    assert reader.database.execute("SELECT id FROM outbox ORDER BY seq LIMIT 1") == [(reader.names["event_id"],)]
    assert len(reader.run_tests()) == 2
    assert reader.outbox()[2:] == [placed(45, "12")]


def test_the_page_for_psycopg_with_the_role_that_it_names(reader: Reader) -> None:
    reader.follow(PSYCOPG)
    reader.database.execute("ALTER ROLE my_service LOGIN PASSWORD 'secret'; GRANT INSERT ON orders TO my_service")

    with psycopg.connect(reader.database.dsn_for("my_service", "secret")) as connection:
        reader.names["place_order"](connection, 50, 1)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM outbox")

    assert reader.outbox()[-1] == placed(50, "1")


def test_the_page_for_asyncpg(reader: Reader) -> None:
    apply_install(reader.database.dsn, InstallOptions(), pytest.fail)

    reader.follow(ASYNCPG)

    assert reader.outbox() == [placed(42, "99.5")]
    assert len(reader.run_tests()) == 1
    assert reader.outbox() == [placed(42, "99.5")]


def test_the_page_for_sqlalchemy(reader: Reader) -> None:
    engine = sa.create_engine(url(reader.database, "postgresql+psycopg"))

    def migrate() -> None:
        with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
            reader.names["upgrade"]()

    def autogenerate() -> None:
        with engine.connect() as connection:
            found = compare_metadata(MigrationContext.configure(connection), reader.names["Base"].metadata)
        assert found == [], "its own tables are there, and so is ours"

    reader.follow(SQLALCHEMY, {"def upgrade():": migrate, "outbox_table(Base.metadata)": autogenerate})

    assert reader.outbox() == [placed(42, "99.5"), ("order", "43", "OrderPlaced", '{"total":10}')]
    assert len(reader.run_tests()) == 1
    assert len(reader.outbox()) == 2
    reader.names["engine"].dispose()
    engine.dispose()


def test_the_steps_for_migrations_on_asyncpg(reader: Reader) -> None:
    engine = create_async_engine(url(reader.database, "postgresql+asyncpg"))
    (line,) = [line for line in read(SQLALCHEMY).prose.splitlines() if "run_async" in line]
    statement = line.partition("`")[2].partition("`")[0]

    def upgrade(connection: sa.Connection) -> None:
        from cdc_outbox.commands.install import render_install

        with Operations.context(MigrationContext.configure(connection)) as op:
            exec(statement, {"op": op, "sql": render_install(InstallOptions())})

    async def migrate() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()

    asyncio.run(migrate())

    assert reader.database.execute("SELECT to_regclass('outbox')::text") == [("outbox",)]


# --- Django: a project of its own --------------------------------------------------------------------------------------

SETTINGS: Final = """
import os
SECRET_KEY = "a reader's"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "{name}", "USER": "{user}",
    "PASSWORD": "{password}", "HOST": "{host}", "PORT": "{port}"}}}}
"""
MANAGE: Final = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
MODELS: Final = """
from django.db import models

class Order(models.Model):
    id = models.IntegerField(primary_key=True)
    total = models.FloatField()

    class Meta:
        db_table = "orders"
"""


def test_the_page_for_django(database: Database, shell: Shell, tmp_path: Path) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database.dsn)
    settings, migrate, orders, tests, operate = read(DJANGO).blocks
    (tmp_path / "shop" / "migrations").mkdir(parents=True)
    for file, text in {
        "settings.py": settings.text + SETTINGS.format(name=database.name, **parts),
        "manage.py": MANAGE,
        "shop/__init__.py": "",
        "shop/migrations/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/orders.py": orders.text,
        "shop/tests.py": tests.text,
    }.items():
        assert not text.startswith("# ") or text.startswith(f"# {file}\n")
        (tmp_path / file).write_text(text, encoding="utf-8")

    def manage(arguments: str) -> subprocess.CompletedProcess[str]:
        return shell(f"python manage.py {arguments}", DJANGO_SETTINGS_MODULE="settings")

    manage("makemigrations shop")
    shell(migrate.text, DJANGO_SETTINGS_MODULE="settings")
    manage("shell -c 'from shop.orders import place_order; place_order(42, 99.5)'")
    tested = manage("test --verbosity 1")

    assert "Ran 1 test" in tested.stderr
    assert Reader(database, shell).outbox() == [placed(42, "99.5")]
    assert database.execute("SELECT inbox_claim('mailer', '1')") == [(True,)]
    operated = shell(operate.text, code=1, DJANGO_SETTINGS_MODULE="settings").stdout
    assert "System check identified no issues" in operated
    assert "no slot cdc_outbox in this database" in operated
    manage("migrate cdc_outbox zero")
    assert database.execute("SELECT to_regproc('outbox_emit'), (SELECT count(*) FROM outbox)") == [(None, 1)]


# --- registered events -------------------------------------------------------------------------------------------------


def test_the_page_on_registered_events(
    reader: Reader, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_install(reader.database.dsn, InstallOptions(), pytest.fail)
    reader.database.execute("CREATE SCHEMA billing; CREATE TABLE billing.events (LIKE outbox INCLUDING ALL)")
    reader.database.execute("ALTER TABLE billing.events RENAME aggregateid TO customer")
    reader.database.execute("ALTER TABLE billing.events ADD tenant text, ALTER payload TYPE jsonb")
    monkeypatch.syspath_prepend(tmp_path)
    exported = []
    for each in read(REGISTER).blocks:
        if each.text.startswith(("# shop/", "# tests/")):
            file = tmp_path / each.first_line.removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(each.text)
        elif each.language == "sh" and not each.text.startswith("pip"):
            exported = [shell(line).stdout for line in each.text.splitlines()]
        elif each.language == "python":
            exec(compile(each.text, str(each), "exec", dont_inherit=True), reader.names)

    for _ in range(2):
        held = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
            cwd=tmp_path,
            env=environment({"PYTHONPATH": str(tmp_path)}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert held.returncode == 0, held.stdout
    assert (tmp_path / "events.json").read_text() == exported[0]
    assert "outbox.event.order" in exported[1]
    rows = reader.outbox()
    assert rows[0] == ("order", "42", "OrderPaid", '{"order_id":42,"total":99.50,"coupon":null}')
    assert [row[1] for row in rows[1:]] == [str(number) for number in range(1000)]
    found = reader.database.execute("SELECT customer, type, payload, tenant FROM billing.events")
    assert found == [("7", "InvoiceSent", {"total": 12}, "acme")]
    for name in ("shop", "shop.events"):
        sys.modules.pop(name, None)


# --- consuming ---------------------------------------------------------------------------------------------------------

POINTS: Final = "SELECT points FROM accounts WHERE id = '7'"
SESSION_TIMEOUT: Final = '"session.timeout.ms": 6000,'
"""How long a group waits for a member that was killed: the shortest that a broker allows, for the sake of the test."""


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[str] = mapped_column(primary_key=True)
    points: Mapped[int]


class Message:
    """As confluent_kafka hands it over."""

    def __init__(self, message_id: str) -> None:
        self._id = message_id

    def headers(self) -> list[tuple[str, bytes]]:
        return [("id", self._id.encode())]

    def key(self) -> bytes:
        return b"7"


def with_accounts(database: Database) -> None:
    database.execute("CREATE TABLE accounts (id text PRIMARY KEY, points int); INSERT INTO accounts VALUES ('7', 0)")


def test_the_page_on_consuming_once_but_for_its_loop(shop: Database, shell: Shell) -> None:
    with_accounts(shop)
    reader = Reader(shop, shell)
    reader.names["Account"] = Account
    loop = block(CONSUME, "import os")
    exec(loop.text.partition("def add_points(")[0], reader.names)  # what it imports
    for each in read(CONSUME).blocks:
        if each.language == "sh":
            shell(each.text, DSN=url(shop))
        elif each.language == "sql":
            shop.execute(each.text)
        elif each is not loop:
            exec(compile(each.text, str(each), "exec", dont_inherit=True), reader.names)

    async def consume() -> None:
        engine = create_async_engine(url(shop, "postgresql+psycopg"))
        for message_id in ("1", "2", "1", "2"):
            async with AsyncSession(engine) as session:
                await reader.names["credit"](session, Message(message_id))
        await engine.dispose()

    asyncio.run(consume())

    assert shop.execute(POINTS) == [(20,)]
    assert shop.execute("SELECT consumer, message_id FROM inbox ORDER BY claimed_at")[1:] == [
        ("rewards", "1"),
        ("rewards", "2"),
    ]


def test_the_loop_killed_again_and_again_has_each_effect_once(outbox: Outbox, tmp_path: Path) -> None:
    database = outbox.database
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    apply_consumer(database.dsn, pytest.fail)
    with_accounts(database)
    events = [{"id": str(uuid.uuid4()), "aggregateid": "7"} for _ in range(30)]
    outbox.add_all(events)
    outbox.add_all(events)  # each a second time, as after a crash of the relay
    last = outbox.add(aggregateid="7")
    outbox.drain()
    assert len(ids(outbox.records())) == 61
    text = block(CONSUME, "import os").text
    for old, new in {
        '"outbox.event.order"': f'"{outbox.prefix}order"',
        'group="rewards"': f'group="{outbox.prefix}", properties={{{SESSION_TIMEOUT}}}',
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    script = tmp_path / "rewards.py"
    script.write_text(text, encoding="utf-8")

    def points() -> int:
        return int(database.execute(POINTS)[0][0])

    for enough in (20, 150, 310):
        with running(script, DSN=database.dsn, BROKERS=outbox.kafka.brokers) as consumer:
            eventually(lambda: consumer.poll() is not None or points() >= enough, f"{enough} points", seconds=60)  # noqa: B023
            assert consumer.poll() is None, consumer.stderr.read() if consumer.stderr else ""

    eventually(lambda: database.execute("SELECT 1 FROM inbox WHERE message_id = %s", [last]), "the last is claimed")
    assert points() == 310
    assert database.execute("SELECT count(*) FROM inbox") == [(31,)]


@contextlib.contextmanager
def running(script: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The consumer, killed at the end of the block."""
    with subprocess.Popen(
        [sys.executable, script], env=environment(variables), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
