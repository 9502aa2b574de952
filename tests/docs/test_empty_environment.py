"""The pages for application teams, followed in an environment that has nothing but what the page installs.

A new virtual environment outside the tree, an empty HOME, the wheels that `make dist` makes in place of the checkout, and each
page's own commands and programs as files, in their order.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import ROOT, Block, read, spans
from tests.docs.test_application_pages import url
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

CHECKOUTS: Final = {"./packaging/cdc-outbox-app": "cdc_outbox_app", ".": "cdc_outbox"}
"""What a page installs from a checkout, and the wheel of it."""

INSTALL_SECONDS: Final = 300
"""Of one `pip install`, which may download 60 MB."""

RUN_TESTS: Final = """
for name, test in list(globals().items()):
    if name.startswith("test_") and not test.__code__.co_argcount:
        test()
        print("passed", name)
"""
"""Runs the test functions of a page that need no fixture."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by the name of their distribution."""
    folder = tmp_path_factory.mktemp("dist")
    for project in (ROOT, ROOT / "packaging" / "cdc-outbox-app"):
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
        subprocess.run(build, cwd=project, check=True, capture_output=True, timeout=60)
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.glob("*.whl")}


class Empty:
    """A folder with a virtual environment that has only pip, and the reader who works in it."""

    def __init__(self, folder: Path, wheels: dict[str, Path], programs: Path) -> None:
        self.folder = folder
        self._wheels = wheels
        self._bin = folder / "venv" / "bin"
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
        self._env = {
            **kept,
            "HOME": str(folder / "home"),
            "PATH": f"{self._bin}:{programs}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "CDC_OUTBOX_HTTP": "off",
        }
        (folder / "home").mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=120)

    def shell(self, text: str, *, seconds: int = 100, **variables: str) -> str:
        """Run commands as bash reads them; their output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**self._env, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, command: str) -> None:
        """A page's `pip install`, a wheel in place of the checkout."""
        words = shlex.split(command, comments=True)
        assert words[:2] == ["pip", "install"]
        found = [re.fullmatch(r"(\./packaging/cdc-outbox-app|\.)(\[.*\])?", word) for word in words]
        words = [
            f"{self._wheels[CHECKOUTS[match[1]]]}{match[2] or ''}" if match else word
            for word, match in zip(words, found, strict=True)
        ]
        self.shell(f"{shlex.join(words)} --quiet", seconds=INSTALL_SECONDS)

    def install_all(self, page: str, *further: str) -> None:
        """`further`, and every `pip install` of the page."""
        blocks = [line for each in read(page).blocks for line in each.text.splitlines()]
        for command in [*further, *[text for text in [*blocks, *spans(page)] if text.startswith("pip install")]]:
            self.install(command)

    def write(self, block: Block, default: str) -> str:
        """A page's program as a file, named by its first line. The file's name."""
        match = re.match(r"# (\S+\.py)\n", block.text)
        name = match[1] if match else default
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(block.text, encoding="utf-8")
        return name

    @contextmanager
    def running(self, program: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """A program that does not end; SIGTERM at the end of the block has to end it with 0."""
        command = [str(self._bin / "python"), program]
        with subprocess.Popen(command, cwd=self.folder, env={**self._env, **variables}, text=True) as process:
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()


@pytest.fixture
def empty(tmp_path: Path, wheels: dict[str, Path], postgres_binaries: Path) -> Empty:
    return Empty(tmp_path, wheels, postgres_binaries)


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total float NOT NULL)")
    database.execute("CREATE ROLE my_service; CREATE ROLE my_consumer")
    return database


def programs(page: str) -> str:
    """The Python blocks of a page as one program."""
    return "\n".join(each.text for each in read(page).blocks if each.language == "python")


def prepare(empty: Empty, page: str, database: Database) -> None:
    """The shell and SQL blocks of a page, but for its installation."""
    for each in read(page).blocks:
        if each.language == "sh":
            text = "\n".join(line for line in each.text.splitlines() if not line.startswith("pip install"))
            empty.shell(text, DSN=url(database))
        elif each.language == "sql":
            empty.shell(f"psql --quiet --set ON_ERROR_STOP=1 \"$DSN\" <<'END'\n{each.text}\nEND", DSN=url(database))


def emitted(database: Database) -> list[str]:
    return [str(row[0]) for row in database.execute("SELECT aggregateid FROM outbox ORDER BY seq")]


def test_psycopg(empty: Empty, shop: Database) -> None:
    page = "docs/how-to/emit-from-psycopg.md"
    empty.install_all(page)
    prepare(empty, page, shop)
    (empty.folder / "shop.py").write_text(programs(page) + RUN_TESTS)
    assert "passed test_a_placed_order_is_announced" in empty.shell("python shop.py", DSN=url(shop))
    assert emitted(shop) == ["42", "43"]


def test_psycopg_with_the_distribution_of_applications(empty: Empty, shop: Database) -> None:
    page = "docs/how-to/emit-from-psycopg.md"
    empty.install_all("docs/how-to/register-events.md", "pip install 'psycopg[binary]'")
    shop.execute((ROOT / "sql" / "outbox.sql").read_text())
    (empty.folder / "shop.py").write_text(programs(page) + RUN_TESTS)
    empty.shell("python shop.py", DSN=url(shop))
    assert emitted(shop) == ["42", "43"]
    assert "confluent" not in empty.shell("pip list")


def test_asyncpg(empty: Empty, shop: Database) -> None:
    page = "docs/how-to/emit-from-asyncpg.md"
    empty.install_all(page, "pip install ./packaging/cdc-outbox-app")
    shop.execute((ROOT / "sql" / "outbox.sql").read_text())
    (empty.folder / "shop.py").write_text(programs(page) + RUN_TESTS)
    assert "passed" in empty.shell("python shop.py", DSN=url(shop))
    assert emitted(shop) == ["42"]


def test_sqlalchemy(empty: Empty, database: Database) -> None:
    page = "docs/how-to/emit-from-sqlalchemy.md"
    empty.install_all(page, "pip install .", "pip install alembic")
    prepare(empty, page, database)
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total float NOT NULL)")
    database.execute((empty.folder / "outbox.sql").read_text())
    (empty.folder / "shop.py").write_text(programs(page) + RUN_TESTS)
    assert "passed" in empty.shell("python shop.py", DATABASE_URL=url(database, "postgresql+psycopg"))
    assert emitted(database) == ["42", "43"]


SETTINGS: Final = """
import os

import psycopg

place = psycopg.conninfo.conninfo_to_dict(os.environ["DSN"])
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": place["dbname"], "USER": place["user"],
    "PASSWORD": place.get("password"), "HOST": place["host"], "PORT": place["port"]}}
"""

MODELS: Final = """
from django.db import models


class Order(models.Model):
    id = models.IntegerField(primary_key=True)
    total = models.FloatField()
"""


def test_django(empty: Empty, database: Database) -> None:
    page = "docs/how-to/emit-from-django.md"
    empty.install_all(page, "pip install ./packaging/cdc-outbox-app")
    empty.shell("django-admin startproject site_ . && python manage.py startapp shop && rm shop/tests.py")
    (empty.folder / "shop" / "models.py").write_text(MODELS)
    settings = empty.folder / "site_" / "settings.py"
    dsn = url(database)
    for each in read(page).blocks:
        if each.first_line == "# settings.py":
            added = each.text.replace("INSTALLED_APPS = [", "INSTALLED_APPS += [")
            settings.write_text(settings.read_text() + SETTINGS + added)
            empty.shell("python manage.py makemigrations shop", DSN=dsn)
        elif each.language == "sh" and "outbox_status" in each.text:
            empty.shell(each.text.partition("python manage.py outbox_status")[0], DSN=dsn)
            empty.shell("python manage.py outbox_status || test $? = 1", DSN=dsn)  # no relay runs
        elif each.language == "sh":
            empty.shell(each.text, DSN=dsn)
        else:
            empty.write(each, "shop/unknown.py")
    order = "from shop.orders import place_order; place_order(42, 99.5)"
    empty.shell(f"python manage.py shell -c '{order}'", DSN=dsn)
    assert emitted(database) == ["42"]
    empty.shell("python manage.py test", DSN=dsn)


def test_registered_events(empty: Empty, database: Database) -> None:
    page = "docs/how-to/register-events.md"
    empty.install_all(page, "pip install 'psycopg[binary]'", "pip install pytest")
    database.execute((ROOT / "sql" / "outbox.sql").read_text())
    database.execute(
        "CREATE SCHEMA billing; CREATE TABLE billing.events (id uuid, aggregatetype text, customer text, type text,"
        " payload jsonb, headers jsonb, tenant text)"
    )
    program = ""
    for each in read(page).blocks:
        if each.text.startswith("# "):
            empty.write(each, "")
        elif each.language == "python":
            program += each.text
        elif "schema export" in each.text:
            assert '"asyncapi": "3' in empty.shell(each.text)
    (empty.folder / "page.py").write_text(program)
    empty.shell("python page.py", DSN=url(database))
    assert emitted(database)[0] == "42"
    assert database.execute("SELECT customer, tenant FROM billing.events") == [("7", "acme")]
    for _ in range(2):
        empty.shell("python -m pytest -q tests")
    assert (empty.folder / "events.json").is_file()


def test_the_pytest_plugin(empty: Empty, database: Database) -> None:
    page = "docs/how-to/test-events.md"
    (first, *_) = [each.text for each in read(page).blocks if each.language == "sh"]
    empty.install(first)
    (test,) = [each for each in read(page).blocks if each.first_line == "# test_orders.py"]
    empty.write(test, "")
    assert "3 passed" in empty.shell("pytest -q test_orders.py")


def relayed(empty: Empty, database: Database, kafka: KafkaCluster, prefix: str) -> None:
    """Deliver what is in the outbox, by the relay of this environment."""
    empty.shell(
        f"cdc-outbox run --until caught-up --topic '{prefix}{{aggregatetype}}' --slot '{prefix.rstrip('.').replace('.', '_')}'",
        CDC_OUTBOX_DSN=database.dsn,
        CDC_OUTBOX_BROKERS=kafka.brokers,
    )


def test_consume_once(empty: Empty, shop: Database, kafka: KafkaCluster) -> None:
    page = "docs/how-to/consume-once.md"
    prefix = kafka.unique_topic_prefix()
    empty.install("pip install .")
    empty.shell('cdc-outbox sql install --apply --dsn "$DSN"', DSN=url(shop))
    prepare(empty, page, shop)
    shop.execute("CREATE TABLE accounts (id text PRIMARY KEY, points int); INSERT INTO accounts VALUES ('7', 0)")
    shop.execute("SELECT outbox_emit('order', 7, 'OrderPaid', '{}') FROM generate_series(1, 3)")
    relayed(empty, shop, kafka, prefix)
    (loop,) = [each.text for each in read(page).blocks if each.first_line == "import os"]
    text = loop.replace('"outbox.event.', f'"{prefix}').replace('"rewards', f'"{prefix}rewards')
    (empty.folder / "loop.py").write_text(text)
    with empty.running("loop.py", DSN=url(shop), BROKERS=kafka.brokers):
        eventually(lambda: shop.execute("SELECT points FROM accounts") == [(30,)], "the points", seconds=60)


def test_schema_registry(empty: Empty, database: Database, kafka: KafkaCluster) -> None:
    page = "docs/how-to/schema-registry.md"
    prefix = kafka.unique_topic_prefix()
    empty.install_all(page, "pip install .", "pip install grpcio-tools")
    prepare(empty, page, database)
    empty.shell('cdc-outbox sql consumer --apply --dsn "$DSN"', DSN=url(database))
    database.execute("CREATE TABLE accounts (id text, points int); INSERT INTO accounts VALUES ('42', 0)")
    proto = 'syntax = "proto3"; package shop; message PaymentReceived { int64 order = 1; double total = 2; }'
    (empty.folder / "payment.proto").write_text(proto)
    empty.shell("python -m grpc_tools.protoc -I. --python_out=. payment.proto")
    text = programs(page).replace('"outbox.event.', f'"{prefix}').replace('"rewards"', f'"{prefix}"')
    relay = f"cdc-outbox run --until caught-up --topic '{prefix}{{aggregatetype}}' --slot {database.name}"
    text += f"""
import signal, subprocess, threading
subprocess.run({shlex.split(relay)!r}, check=True)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run(stop)
"""
    (empty.folder / "formats.py").write_text(text)
    variables = {
        "DSN": url(database),
        "BROKERS": kafka.brokers,
        "REGISTRY": "mock://",
        "CDC_OUTBOX_DSN": database.dsn,
        "CDC_OUTBOX_BROKERS": kafka.brokers,
    }
    with empty.running("formats.py", **variables):
        eventually(lambda: database.execute("SELECT points FROM accounts") == [(99,)], "the points", seconds=60)
