"""Counts words that the house style replaces: python scripts/dialect.py. Ends with 1 above `BUDGET`.

In: tracked .py, .md, .sql and .yml files outside tests/. Out: the count, and the files with most of these words.
Never: a judgement of a sentence. Some uses are right (a quoted message, an identifier), so the budget is not 0.

The budget may only fall: lower it to the count after each pass over the prose.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

BUDGET: Final = 8
"""Words."""

SHOWN: Final = 15
"""Files to print."""

WORDS: Final = (
    *("tells?", "told", "says?", "said", "who", "whoever", "whom", "somebody", "nobody", "anybody", "everybody"),
    *(
        "for ever",
        "what is there",
        "one of ours",
        "so many",
        "lest",
        "wants? to",
        "the wish to",
        "let go",
        "letting go",
    ),
    *("hurry", "goodbye", "culprit", "condemn(?:s|ed)?", "errand", "to be looked at", "behind our back"),
)
"""Regular expressions of whole words, in any case."""

_WORD: Final = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)

_OWN: Final = "scripts/dialect.py"


def counts() -> Counter[str]:
    """Number of words by file."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", "*.py", "*.md", "*.sql", "*.yml", ":!tests", f":!{_OWN}"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    files = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return Counter({name: len(_WORD.findall((ROOT / name).read_text(encoding="utf-8"))) for name in files})


def main() -> int:
    """Print the count; return the exit code."""
    found = counts()
    for name, count in found.most_common(SHOWN):
        if count:
            print(f"{count:5}  {name}")
    print(f"{found.total():5}  of {BUDGET} in the budget")
    return int(found.total() > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
