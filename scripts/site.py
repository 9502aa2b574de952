"""Builds the documentation site into site/: python scripts/site.py [--repository https://github.com/OWNER/NAME]

In: mkdocs.yml; README.md and the other pages of the root; docs/. Out: site/, by zensical in strict mode: a link that leads
nowhere ends the build. The navigation is made of the pages that are there, so that a new page is never left out.
Never: a page changed where it stands; an asset that is loaded from elsewhere.

Pages are copied, and links that lead out of them (to a manifest, a test) become links into the repository; or, where no
repository is named, plain text.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

FROM_ROOT: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages of the root, and their names in the site."""

INDEX: Final = "documentation.md"
"""docs/README.md in the site: its own index is the project's README."""

SECTIONS: Final = {"how-to": "How to", "reference": "Reference"}

_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_DRAWN: Final = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)
"""Pictures that the repository's own pages show. Here they would need a megabyte of script."""

_FENCED: Final = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)\s*$)", re.MULTILINE | re.DOTALL)


def pages() -> dict[Path, str]:
    """Each page's file, and its name in the site."""
    found = {ROOT / name: target for name, target in FROM_ROOT.items()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = str(path.relative_to(ROOT / "docs"))
        found[path] = INDEX if name == "README.md" else name
    return found


def stage(folder: Path, repository: str) -> None:
    """Put the pages, their pictures and the configuration into `folder`, ready to be built."""
    shutil.rmtree(folder, ignore_errors=True)
    names = pages()
    for path, name in names.items():
        target = folder / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rewritten(path, names, repository), encoding="utf-8")
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in {".png", ".svg"}:
            target = folder / "docs" / path.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    nav = "\n".join(navigation(names))
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    extra = f"repo_url: {repository}\n" if repository else ""
    (folder / "mkdocs.yml").write_text(f"{configuration}{extra}nav:\n{nav}\n", encoding="utf-8")


def rewritten(path: Path, names: dict[Path, str], repository: str) -> str:
    """A page's text, its links as the site needs them; code is left as it is."""

    def link(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        where, _, heading = target.partition("#")
        if not where or re.match(r"[a-z]+:", where):
            return match[0]
        file = (path.parent / where).resolve()
        anchor = f"#{heading}" if heading else ""
        if file in names:
            return f"[{text}]({_relative(names[file], names[path])}{anchor})"
        if picture:
            inside = file.relative_to(ROOT / "docs") if file.is_relative_to(ROOT / "docs") else None
            return f"![{text}]({_relative(str(inside), names[path])})" if inside else text
        return f"[{text}]({repository}/blob/main/{file.relative_to(ROOT)}{anchor})" if repository else text

    parts = _FENCED.split(_DRAWN.sub("", path.read_text(encoding="utf-8")))
    return "".join(part if number % 2 else _LINK.sub(link, part) for number, part in enumerate(parts))


def _relative(target: str, page: str) -> str:
    """`target` as a link from `page`, both by their names in the site."""
    up = "../" * page.count("/")
    return f"{up}{target}"


def navigation(names: dict[Path, str]) -> Iterator[str]:
    """Lines of `nav`: the project, its pages, the sections, and the contributors' pages."""
    titles = {name: title(path) for path, name in names.items()}
    top = [name for name in titles if "/" not in name and name not in {*FROM_ROOT.values(), INDEX}]
    for name in ["index.md", INDEX, *top]:
        yield f"  - {_quoted(titles[name])}: {name}"
    folders = sorted({name.partition("/")[0] for name in titles if "/" in name})
    for folder in folders:
        yield f"  - {_quoted(SECTIONS.get(folder, folder.capitalize()))}:"
        for name, text in titles.items():
            if name.startswith(f"{folder}/"):
                yield f"      - {_quoted(text)}: {name}"
    yield "  - Project:"
    for name in list(FROM_ROOT.values())[1:]:
        yield f"      - {_quoted(titles[name])}: {name}"


def title(path: Path) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].replace("`", "").strip() if found else path.stem


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def main(arguments: list[str]) -> int:
    """Build; gives zensical's exit code."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument(
        "--repository", default="", help="where links to files lead, such as https://github.com/OWNER/NAME"
    )
    parser.add_argument("--to", type=Path, default=ROOT / "site")
    chosen = parser.parse_args(arguments)
    folder = ROOT / "build" / "site" if chosen.to == ROOT / "site" else chosen.to.with_name(f"{chosen.to.name}-source")
    stage(folder, chosen.repository.rstrip("/"))
    program = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [program, "build", "--clean", "--strict", "--config-file", folder / "mkdocs.yml"], check=False
    )
    if done.returncode == 0:
        shutil.rmtree(chosen.to, ignore_errors=True)
        shutil.copytree(folder / "site", chosen.to)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
