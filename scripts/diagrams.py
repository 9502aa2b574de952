"""Draws the diagrams of the pages for the site, which loads no script from elsewhere: python scripts/diagrams.py MERMAID.JS

In: blocks ```mermaid in docs/; mermaid.min.js; chromium. Out: docs/images/diagram-*.svg, named by the block's text.
Never: a diagram in the site that is not the page's: a change of the text changes the name, and the site's build ends.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import unquote

ROOT: Final = Path(__file__).parents[1]

FOLDER: Final = ROOT / "docs" / "images"

BLOCK: Final = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)

_PAGE: Final = """<!doctype html><meta charset="utf-8"><script src="{script}"></script><body><script>
mermaid.initialize({{startOnLoad: false, htmlLabels: false, flowchart: {{htmlLabels: false}}, theme: "neutral",
  fontFamily: "sans-serif", deterministicIds: true}});
mermaid.render("diagram", decodeURIComponent("{text}")).then(
  drawn => {{ document.body.innerHTML = "<pre>" + encodeURIComponent(drawn.svg) + "</pre>"; }},
  error => {{ document.title = error; }});
</script></body>"""


def picture_of(text: str) -> str:
    """The file's name for a diagram's text."""
    return f"diagram-{hashlib.sha256(text.encode()).hexdigest()[:10]}.svg"


def _drawn(text: str, script: Path) -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        quoted = "".join(f"%{byte:02x}" for byte in text.encode())
        page.write_text(_PAGE.format(script=script.resolve().as_uri(), text=quoted), encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"]
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"<body><pre>(.*?)</pre>", done.stdout, re.DOTALL)
    if found is None:
        raise SystemExit(f"not drawn:\n{text}\n{done.stderr}")
    return unquote(found[1])


def main(arguments: list[str]) -> int:
    """Draw what is new, delete what no page has."""
    texts = [text for page in (ROOT / "docs").rglob("*.md") for text in BLOCK.findall(page.read_text(encoding="utf-8"))]
    wanted = {picture_of(text): text for text in texts}
    for file in FOLDER.glob("diagram-*.svg"):
        if file.name not in wanted:
            file.unlink()
    for name, text in wanted.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_text(_drawn(text, Path(arguments[0])) + "\n", encoding="utf-8")
            print(f"{name}: drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
