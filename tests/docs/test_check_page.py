"""docs/how-to/check.md, done as it says; and that it names every check."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from tests.docs.pages import ROOT, block

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.outbox import Outbox

PAGE: Final = "docs/how-to/check.md"
CHECK: Final = 'cdc-outbox check --brokers "$BROKERS"'
EMIT: Final = "cdc-outbox emit --aggregate-type smoke-test --aggregate-id 1 --type SmokeTest --payload '{}' --wait 10s"


def shape(line: str) -> str:
    """A line without what differs from server to server."""
    line = re.sub(
        r"\d+\.\d+\.\d+\.\d+:\d+|database \w+, role \w+|in database \w+|\d+ ms|id \S+|t\w{8}\.|outbox\.event\.",
        "…",
        line,
    )
    return re.sub(r" +", " ", line)


def test_the_page_in_order(outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    variables = {
        "BROKERS": outbox.kafka.brokers,
        "CDC_OUTBOX_DSN": outbox.database.dsn,
        "CDC_OUTBOX_TOPIC": outbox.prefix + "{aggregatetype}",
    }
    found = shell(block(PAGE, CHECK).text, code=1, **variables).stdout
    printed = {shape(line) for line in found.splitlines()}
    for line in block(PAGE, "ok    config.postgres-tls       the server is on this machine").text.splitlines():
        assert shape(line) in printed, line

    shell("cdc-outbox sql install --apply", **variables)
    outbox.streaming()
    done = shell(block(PAGE, EMIT).text, **variables)
    [shown] = [each for each in _blocks() if "confirmed by slot" in each]
    id_shown, confirmed = shown.splitlines()
    assert len(done.stdout.strip()) == len(id_shown)
    assert shape(done.stderr.strip()) == shape(confirmed)


def test_every_check_is_in_the_table_and_no_other() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cdc_outbox/check").glob("*.py"))
    made = set(re.findall(r'"((?:config|database|table|publication|slot|kafka)\.[a-z-]+)"', source))
    table = (ROOT / PAGE).read_text(encoding="utf-8").partition("## What it looks at")[2]
    assert set(re.findall(r"`((?:config|database|table|publication|slot|kafka)\.[a-z-]+)`", table)) == made


def test_the_document_has_the_members_that_are_shown(
    outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = shell(f"{CHECK} --json", code=1, BROKERS="127.0.0.1:1", CDC_OUTBOX_DSN=outbox.database.dsn)
    [shown] = [json.loads(each) for each in _blocks() if each.startswith('{"ok"')]
    printed = json.loads(done.stdout)
    assert printed.keys() == shown.keys()
    assert printed["counts"].keys() == shown["counts"].keys()
    assert printed["checks"][0].keys() == shown["checks"][0].keys()


def _blocks() -> list[str]:
    from tests.docs.pages import read

    return [each.text for each in read(PAGE).blocks]
