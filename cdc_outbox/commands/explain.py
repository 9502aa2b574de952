"""What an error code means: its section of docs/troubleshooting.md, which is part of the installed package.

In: a code, as the log and the terminal show it. Out: the section's text. Never: a second copy of a sentence of the page.
"""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Final

from cdc_outbox.errors import ConfigurationError

PAGE: Final = "troubleshooting.md"

_HEADING: Final = re.compile(r"^### `?([\w.-]+)`?\n", re.MULTILINE)
"""A code, or the name of a log event."""


def explain(code: str) -> str:
    """The section of a code or of a log event. Raises ConfigurationError for an unknown one, with the nearest."""
    sections = read_sections()
    if code not in sections:
        nearest = difflib.get_close_matches(code, sections, n=3)
        raise ConfigurationError(
            f"no error code or log event is called {code!r}",
            code="code-unknown",
            cure=f"cdc-outbox explain {nearest[0]}" if nearest else "all codes: cdc-outbox explain --list",
        )
    return sections[code]


def read_sections() -> dict[str, str]:
    """The sections of the page by code or log event, in the order of the page. Headings that follow one another share one."""
    page = _read_page()
    found: dict[str, str] = {}
    waiting: list[str] = []
    headings = list(_HEADING.finditer(page))
    for place, heading in enumerate(headings):
        waiting.append(heading[1])
        end = headings[place + 1].start() if place + 1 < len(headings) else len(page)
        text = page[heading.end() : end].partition("\n## ")[0].strip()
        if text:
            found |= dict.fromkeys(waiting, text)
            waiting = []
    return found


def _read_page() -> str:
    """From the installed package, or from docs/ in a checkout."""
    for folder in (resources.files("cdc_outbox") / "_docs", Path(__file__).parents[2] / "docs"):
        file = folder / PAGE
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ConfigurationError(
        f"{PAGE} is not part of this installation", code="installation", cure="install cdc-outbox again"
    )
