"""psql goes on after an error, unless it is stopped: each command that pipes SQL into it does so."""

from __future__ import annotations

import re
import subprocess
from typing import Final

from tests.docs.pages import ROOT

FED: Final = re.compile(r"\|\s*(?:\w+=\S+\s+)*psql\b[^|`\n]*|\bpsql\b[^|`\n]*(?:<|\s-f\b|--file\b)[^`\n]*")
"""psql that reads SQL from a pipe, a here-document or a file."""

LEFT_OUT: Final = {
    "tests/recorded",  # releases as they were
    "tests/integration/test_sql_commands.py",  # the scripts are one statement each, so that they hold without it, too
    "tests/docs/test_psql.py",
}


def commands() -> list[str]:
    """Each place with its command."""
    names = subprocess.run(["git", "grep", "-lIw", "psql"], cwd=ROOT, capture_output=True, check=True, text=True)
    files = [name for name in names.stdout.splitlines() if not any(map(name.startswith, LEFT_OUT))]
    return [
        f"{name}: {match[0]}"
        for name in files
        for match in FED.finditer((ROOT / name).read_text(encoding="utf-8").replace("\\\n", " "))
    ]


def test_every_command_that_feeds_sql_to_psql_stops_at_an_error() -> None:
    found = commands()
    assert len(found) >= 15
    assert [command for command in found if "ON_ERROR_STOP=1" not in command] == []
