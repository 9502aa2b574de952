"""A password is not seen: not in the process list, not in what is printed, not in an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdc_outbox.cli.argv import hide_secrets, secret_spans_of

DEADLINE_SECONDS = 20

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

WAITING = """
import sys
from cdc_outbox.cli.argv import hide_secrets
hide_secrets(sys.argv)
print("hidden", sys.argv[1:], flush=True)
sys.stdin.read()
"""
"""A process that does what `main()` does first, and then waits."""


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=DEADLINE_SECONDS)


def title(child: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{child.pid}/cmdline").read_bytes().decode().rstrip("\0")


@LINUX
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--dsn", "postgresql://u:{hunter2}@db/x", "-b", "x:1"],
        ["--dsn=host=db password='{hun ter2}' user=ü"],
        ["--dsn", "host=db password={hünter2}"],
        ["--dsn", "postgresql://db/x?password={hunter2}&sslmode=require"],
        ["--dsn", "{hunter2}"],
        ["--dsn={hunter2}"],
        ["-X", "sasl.password={hunter2}", "-Xssl.key.password={hunter2}", "-X", "acks=all"],
        ["--dsn", "host=db", "password={hunter2}"],
    ],
)
def test_the_process_list_does_not_show_it_and_the_program_still_has_it(arguments: list[str]) -> None:
    """What is in braces is the secret; it is masked in the title."""
    seen = " ".join(re.sub("{(.*?)}", "***", argument) for argument in arguments)
    arguments = [re.sub("{(.*?)}", r"\1", argument) for argument in arguments]
    with process(sys.executable, "-c", WAITING, *arguments) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == f"hidden {arguments}\n"
        assert title(child) == f"cdc-outbox {seen}"


@LINUX
@pytest.mark.parametrize("command", [["cdc-outbox"], [sys.executable, "-m", "cdc_outbox"]])
def test_the_real_command_hides_it(command: list[str], tmp_path, open_when_read) -> None:
    """Held where it reads its payload from a pipe, before it connects."""
    if command == ["cdc-outbox"]:
        command = [str(Path(sys.executable).with_name("cdc-outbox"))]
    arguments = ["emit", "--dsn", "postgresql://u:hunter2@127.0.0.1:1/x", "--aggregate-type", "t", "--payload"]
    pipe = tmp_path / "payload"
    os.mkfifo(pipe)
    with process(*command, *arguments, f"@{pipe}") as child:
        with open_when_read(pipe, child):
            assert title(child).startswith("cdc-outbox emit --dsn postgresql://u:***@127.0.0.1:1/x --aggregate-type")
        _, errors = child.communicate(timeout=DEADLINE_SECONDS)
    assert "hunter2" not in errors
    assert "cure: " in errors


def test_where_it_cannot_be_hidden_a_warning_names_the_cure(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "setproctitle", None)  # as where it is not installed
    hide_secrets(["cdc-outbox", "run", "--dsn", "password=hunter2"])
    assert "CDC_OUTBOX_DSN_FILE" in caplog.text
    assert "hunter2" not in caplog.text


def test_without_a_secret_the_title_stays(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "setproctitle", None)  # a title that is replaced would warn
    hide_secrets(["cdc-outbox", "run", "--dsn", "host=db user=u", "-b", "x:1", "--key-column", "password_hash"])
    assert caplog.text == ""


def test_a_dsn_option_that_comes_last_is_no_error() -> None:
    assert secret_spans_of(["cdc-outbox", "--dsn"]) == [[], []]


def test_config_show_masks_every_secret(invoke, toml, tmp_path) -> None:
    (tmp_path / "password").write_text("hunter2-file\n")
    path = toml("dsn = 'postgresql://u:hunter2-dsn@db/x'\n[kafka]\nssl.key.password = 'hunter2-toml'\n")
    arguments = ["--config", path, "-X", "sasl.oauthbearer.client.secret=hunter2-flag"]
    environment = {
        "CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password"),
        "CDC_OUTBOX_KAFKA_SSL_KEYSTORE_PASSWORD": "hunter2-variable",
    }
    for form in ([], ["--json"]):
        result = invoke("config", "show", *form, *arguments, **environment)
        assert result.exit_code == 0
        assert "hunter2" not in result.output
        assert result.output.count("***") == 5
        assert "postgresql://u:***@db/x" in result.output


def test_x_list_masks_every_secret_and_needs_no_brokers(invoke) -> None:
    result = invoke("run", "-X", "list", "-X", "sasl.password=hunter2", "-X", "client.id=me")
    assert result.exit_code == 0
    assert "sasl.password=***\n" in result.stdout
    assert "client.id=me\n" in result.stdout
    assert "acks=all\n" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "show", "-X", "hunter2"],
        ["config", "show", "-X", "sasl password=hunter2"],
        ["config", "show", "--dsn", "hunter2"],
        ["config", "show", "--dsn", "host=db hunter2"],
    ],
)
def test_a_mistake_around_a_secret_does_not_show_it(arguments: list[str], invoke) -> None:
    assert "hunter2" not in invoke(*arguments).output


def test_a_password_that_slipped_out_of_its_quotes_is_not_shown_by_the_usage_error(invoke) -> None:
    arguments = ["run", "--dsn", "host=db", "password=hunter2"]
    hide_secrets(arguments)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "unexpected extra argument" in result.stderr
    assert "hunter2" not in result.output


def test_the_dsn_is_read_from_the_file_that_its_variable_names(show, tmp_path) -> None:
    file = tmp_path / "dsn"
    file.write_text("postgresql://u:hunter2@db/x\n")
    entry = show(CDC_OUTBOX_DSN_FILE=str(file))["options"]["dsn"]
    assert entry == {"value": "postgresql://u:***@db/x", "origin": "environment", "place": "CDC_OUTBOX_DSN_FILE"}
    assert show("--dsn", "host=flag", CDC_OUTBOX_DSN_FILE=str(file))["options"]["dsn"]["value"] == "host=flag"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CDC_OUTBOX_DSN_FILE": "/nowhere/dsn"}, "CDC_OUTBOX_DSN_FILE names cannot be read"),
        ({"CDC_OUTBOX_DSN_FILE": "/dev/null"}, "is empty"),
        ({"CDC_OUTBOX_DSN_FILE": "/x", "CDC_OUTBOX_DSN": "host=hunter2"}, "both CDC_OUTBOX_DSN and CDC_OUTBOX_DSN_FILE"),
    ],
)  # fmt: skip
def test_a_secret_file_that_does_not_serve_is_an_error_of_configuration(environment, said, invoke) -> None:
    result = invoke("config", "show", **environment)
    assert result.exit_code == 78
    assert said in result.stderr
    assert "cure: " in result.stderr
    assert "hunter2" not in result.output


def test_the_dsn_of_a_file_is_read_again_at_each_use(tmp_path) -> None:
    from cdc_outbox.cli.options import settings_of
    from cdc_outbox.cli.run import command

    file = tmp_path / "dsn"
    file.write_text("password=old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDC_OUTBOX_DSN_FILE", str(file))
        settings = settings_of(command.make_context("run", ["-b", "x:1"]))
    assert settings.dsn.reveal() == "password=old"
    file.write_text("password=new")
    assert settings.dsn.reveal() == "password=new"


def test_json_of_config_show_is_one_document(invoke) -> None:
    document = json.loads(invoke("config", "show", "--json").stdout)
    assert set(document) == {"options", "kafka"}
