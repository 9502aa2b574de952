"""Help that says everything, errors that say what to do, exit codes that scripts can rely on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import click
import pytest
import structlog
from click.testing import CliRunner

from cdc_outbox import __version__
from cdc_outbox.cli import COMMANDS, cli, exit_code
from cdc_outbox.cli.options import SettingOption, dsn_option, settings_of, table_option, tables_option
from cdc_outbox.cli.run import command as run_command
from cdc_outbox.config.redaction import remember
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent, SlotBusy, Unreachable
from cdc_outbox.identifiers import TableName
from cdc_outbox.observe import logs

DEADLINE_SECONDS = 20

EXECUTABLE = str(Path(sys.executable).with_name("cdc-outbox"))


def every_command() -> list[tuple[str, ...]]:
    """Paths of all commands that are there, sub-commands included."""

    def walk(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        paths = [path]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                paths += walk(child, (*path, name))
        return paths

    return walk(cli, ())


def find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        child = command.get_command(click.Context(command), name)
        assert child is not None
        command = child
    return command


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_help_names_variable_and_default_of_every_option(path: tuple[str, ...], flag: str, invoke) -> None:
    result = invoke(*path, flag)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for parameter in find(path).params:
        if not isinstance(parameter, SettingOption):
            continue
        setting = parameter.setting
        assert all(flag in text for flag in parameter.opts)
        assert not setting.in_environment or setting.variable in text.replace(" ", "")
        if setting.default is not None and setting.default not in {"true", "false"}:
            assert f"default:{setting.default}]" in text.replace(" ", "")


def test_the_group_lists_its_commands_with_what_they_do(invoke) -> None:
    result = invoke("--help")
    for name in ("run", "config", "healthcheck"):
        assert re.search(rf"^  {name} +{COMMANDS[name][:20]}", result.stdout, re.MULTILINE)


def test_a_command_whose_module_is_not_there_is_not_listed(invoke, monkeypatch) -> None:
    monkeypatch.setitem(COMMANDS, "nonsense", "Is not there.")
    assert "nonsense" not in invoke("--help").stdout
    assert invoke("nonsense").exit_code == 2


@pytest.mark.parametrize("arguments", [["--help"], ["healthcheck", "--http", "off"], ["config", "example"]])
def test_what_must_be_fast_imports_no_driver_no_client_and_no_logging(arguments: list[str]) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from cdc_outbox.cli import main\n"
        "main()"
    )
    child = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    modules = set(child.stderr.splitlines()[-1].split())
    assert "click" in modules
    assert not modules & {"psycopg", "confluent_kafka", "structlog", "orjson", "prometheus_client", "rich", "logging"}


def test_version_names_what_is_inside(invoke) -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    number = r"\d+\.\d+(\.\d+)?"
    assert re.fullmatch(
        rf"cdc-outbox {re.escape(__version__)} \(Python {number}, librdkafka {number}, libpq {number}, "
        rf"native plane ({number}|not available)\)\n",
        result.stdout,
    )


def test_run_without_brokers_is_a_usage_error_that_names_all_ways_to_set_them(invoke) -> None:
    result = invoke("run")
    assert result.exit_code == 2
    for words in ("--brokers", "CDC_OUTBOX_BROKERS", "--config"):
        assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slot", "No-Good"], "a-z"),
        (["--max-in-flight-events", "0"], "above 0"),
        (["--max-in-flight-bytes", "16M"], "16MiB"),
        (["--shutdown-timeout", "soon"], "25s"),
        (["--http", "8420"], "host:port"),
        (["--table", "a.b.c"], "table name"),
        (["--header", ":x"], "header-name"),
        (["--on-poison", "retry"], "dead-letter"),
        (["--log-level", "loud"], "warning"),
        (["--until", "done"], "caught-up"),
        (["--topic", ""], "empty"),
        (["--publication", "p" * 64], "63"),
        (["--key-column", 'a"'], "column"),
        (["--no-such-option"], "No such option"),
        (["--shard", "0/2", "--prune-after", "7d"], "a shard's slot does not show"),
        (["--source", "message", "--prune-after", "7d"], "messages are in no table"),
        (["--partitions-ahead", "7"], "needs --prune-after"),
    ],
)
def test_a_wrong_flag_is_a_usage_error_that_names_what_was_expected(arguments: list[str], said: str, invoke) -> None:
    result = invoke("run", "-b", "x:1", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_wrong_variable_is_named_in_the_error(invoke) -> None:
    result = invoke("run", CDC_OUTBOX_MAX_IN_FLIGHT_EVENTS="many")
    assert result.exit_code == 2
    assert "CDC_OUTBOX_MAX_IN_FLIGHT_EVENTS" in result.stderr


def test_a_queue_that_could_not_hold_one_record_is_refused(invoke) -> None:
    result = invoke("run", "-X", "list", "--max-in-flight-bytes", "1kB")
    assert result.exit_code == 78
    assert "message.max.bytes" in result.stderr


def test_a_kafka_setting_that_breaks_a_promise_is_refused(invoke) -> None:
    result = invoke("run", "-X", "list", "-X", "acks=1")
    assert result.exit_code == 78
    assert "acks" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("no such slot", cure="create it", slot="s"), 78),
        (AccessRefused("no such slot", cure="create it", slot="s"), 77),
        (PoisonEvent("no such slot", cure="create it", slot="s"), 65),
        (Unreachable("no such slot", cure="create it", slot="s"), 69),
        (SlotBusy("no such slot", cure="create it", slot="s"), 75),
    ],
)
def test_a_foreseen_error_is_one_sentence_its_place_and_its_cure(error: CdcOutboxError, code: int, capsys) -> None:
    def fail() -> None:
        raise error

    assert exit_code(fail) == code
    assert capsys.readouterr() == ("", f"error: no such slot (slot s) [{error.code}]\ncure: create it\n")


@pytest.fixture
def no_log() -> Iterator[None]:
    """No log is configured, before and after."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def test_an_unforeseen_error_is_a_traceback_without_secrets_and_exit_code_70(capsys, no_log) -> None:
    remember("hunter2-long")

    def fail() -> None:
        raise RuntimeError("password is hunter2-long")

    assert exit_code(fail) == 70
    errors = capsys.readouterr().err
    assert "Traceback" in errors
    assert "RuntimeError: password is ***" in errors
    assert "cure: " in errors


def test_an_unforeseen_error_goes_to_the_log_once_there_is_one(capsys, no_log) -> None:
    remember("hunter2-long")
    stream = StringIO()
    logs.configure("json", "info", stream=stream)

    def fail() -> None:
        raise RuntimeError("password is hunter2-long")

    assert exit_code(fail) == 70
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["exit_code"]) == ("stopped", "error", 70)
    assert line["exception"].endswith("RuntimeError: password is ***")
    assert "hunter2" not in stream.getvalue()
    assert capsys.readouterr() == ("", "")


def test_interruption_is_130_and_a_refused_question_is_1(capsys) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def refuse() -> None:
        raise click.Abort

    assert exit_code(interrupt) == 130
    assert exit_code(refuse) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_that_returns_a_number_ends_with_it() -> None:
    assert exit_code(lambda: 75) == 75
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: sys.exit(3)) == 3


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        child = subprocess.run([EXECUTABLE, "config", "example"], stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert (child.returncode, child.stderr) == (141, b"")


def press_ctrl_c(child: subprocess.Popen[str]) -> str:
    """As a person does, who presses again: Python loses one that comes between its last look for signals and the read."""
    for seconds in (DEADLINE_SECONDS / 4, DEADLINE_SECONDS):
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=seconds)[1]
    raise AssertionError("the command does not end with Ctrl-C")


def test_ctrl_c_ends_a_command_without_a_traceback(tmp_path, open_when_read) -> None:
    pipe = tmp_path / "payload"
    os.mkfifo(pipe)
    command = [EXECUTABLE, "emit", "--aggregate-type", "t", "--payload", f"@{pipe}"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with open_when_read(pipe, child):
            errors = press_ctrl_c(child)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    assert "Traceback" not in errors


def test_settings_are_built_from_flags_variables_and_file_together(toml, monkeypatch) -> None:
    monkeypatch.setenv("CDC_OUTBOX_SLOT", "from_variable")
    monkeypatch.setenv("CDC_OUTBOX_KAFKA_SASL_USERNAME", "relay")
    path = toml("table = ['App.Orders', '\"App\".\"Out box\"']\ncolumns = 'snake'\nmax-in-flight-bytes = '8MiB'\n")
    arguments = ["-b", "x:1", "--config", path, "--no-create-slot", "--until", "caught-up", "--shutdown-timeout", "2m"]
    settings = settings_of(run_command.make_context("run", arguments))
    assert settings.brokers == "x:1"
    assert settings.slot == "from_variable"
    assert settings.tables == (TableName("app", "orders"), TableName("App", "Out box"))
    assert settings.columns.key == ("aggregate_id",)
    assert settings.topic == "outbox.event.{aggregate_type}"
    assert (settings.create_slot, settings.snapshot, settings.until_caught_up) == (False, True, True)
    assert (settings.max_in_flight_bytes, settings.shutdown_timeout) == (8 * 1024**2, 120.0)
    assert settings.kafka() == {"sasl.username": "relay"}


def uncommented(example: str) -> str:
    """What somebody has who takes the # away from every setting."""
    return re.sub(r"^#(?=[\[\"a-z])", "", example, flags=re.MULTILINE)


def test_the_example_loads_as_it_is_and_with_everything_in_it_set(invoke, show, toml, tmp_path, monkeypatch) -> None:
    example = invoke("config", "example").stdout
    assert tomllib.loads(example) == {}
    monkeypatch.chdir(tmp_path)
    Path("client.properties").write_text("acks=all\n")
    shown = show("--config", toml(uncommented(example)))
    in_file = {option.name for option in OPTIONS.values() if option.in_file}
    assert {name for name, entry in shown["options"].items() if entry["origin"] == "file"} == in_file
    assert shown["kafka"]["sasl.username"]["value"] == "relay"


def test_the_example_explains_every_option_with_variable_and_default(invoke) -> None:
    example = invoke("config", "example").stdout
    for option in OPTIONS.values():
        if option.in_file:
            assert f"#{option.name} = " in example
            default = f"default: {option.default}" if option.default is not None else "no default"
            assert f"# {option.variable}; {default}\n" in example


def test_config_show_lists_every_option_with_its_origin(invoke, toml) -> None:
    path = toml("publication = 'p'")
    result = invoke("config", "show", "--slot", "s", CDC_OUTBOX_CONFIG=path, CDC_OUTBOX_HTTP="off")
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert set(rows) == set(OPTIONS) - {"kafka-property"}
    assert rows["slot"] == ["s", "flag"]
    assert rows["http"] == ["off", "environment", "CDC_OUTBOX_HTTP"]
    assert rows["publication"] == ["p", "file", path]
    assert rows["config"] == [path, "environment", "CDC_OUTBOX_CONFIG"]
    assert rows["topic"] == ["outbox.event.{aggregatetype}", "default"]
    assert rows["brokers"] == ["-", "not", "set"]


def test_a_shared_option_has_the_same_sources_in_any_command(toml) -> None:
    @click.command()
    @dsn_option
    @table_option
    def one(dsn, table) -> None:
        click.echo(f"{dsn} {table}")

    @click.command()
    @tables_option
    def many(table) -> None:
        click.echo(",".join(map(str, table)))

    runner = CliRunner()
    assert runner.invoke(one, []).output == "None public.outbox\n"
    assert runner.invoke(one, ["--dsn", "x", "--table", "Outbox"]).output == "*** public.outbox\n"
    path = toml("table = ['a', 'b']\nslot = 's'\n")
    assert runner.invoke(many, ["--config", path]).output == "public.a,public.b\n"
    several = runner.invoke(one, ["--config", path])
    assert (several.exit_code, "choose one with --table" in several.output) == (2, True)
    assert runner.invoke(one, [], env={"CDC_OUTBOX_TABLE": "a,b"}).exit_code == 2
    assert runner.invoke(one, [], env={"CDC_OUTBOX_TABLE": "app.a"}).output == "None app.a\n"
    assert runner.invoke(one, ["--config", toml("table = 'b'")]).output == "None public.b\n"


@pytest.mark.parametrize("closed", [">&-", "<&-", "<&- >&-"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["config", "show"], 0),
        (["run"], 2),
        (["run", "-b", "x:1", "-X", "acks=1"], 78),
        (["emit", "--aggregate-type", "t", "--payload", "-", "--dsn", "host=127.0.0.1 port=1"], 69),
        (["check", "--offline", "-b", "x:1"], 0),
    ],
)
def test_without_a_stdin_or_stdout_a_command_ends_with_its_own_code(
    arguments: list[str], code: int, closed: str
) -> None:
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "cdc_outbox", *arguments]
    ended = subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr


def test_without_a_stderr_the_exit_code_is_the_same() -> None:
    line = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "cdc_outbox", "run", "-b", "x:1", "-X", "acks=1"]
    assert subprocess.run(line, check=False).returncode == 78
