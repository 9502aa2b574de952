"""Builds the documentation site into site/: python scripts/site.py [--repository https://github.com/OWNER/NAME]

In: mkdocs.yml; README.md and the other pages of the root; docs/. Out: site/, by zensical in strict mode: a link that leads
nowhere ends the build. The navigation is that of docs/README.md: its headings, and the pages in the order of its links.
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

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts import diagrams

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

TABBED: Final = "how-to/emit-from-python.md"
"""One page of the site, made of the pages of the drivers: a tab for each."""

TABS: Final = {
    "how-to/emit-from-psycopg.md": "psycopg",
    "how-to/emit-from-asyncpg.md": "asyncpg",
    "how-to/emit-from-sqlalchemy.md": "SQLAlchemy",
    "how-to/emit-from-django.md": "Django",
}
"""Their names below docs/, and the titles of the tabs. A title in lower case begins the anchors of its tab."""

TABBED_TITLE: Final = "Emit from Python"

_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_PICTURE: Final = re.compile(r'(<img [^>]*src=")([^":]+)"')

_FENCED: Final = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)\s*$)", re.MULTILINE | re.DOTALL)


def pages() -> dict[Path, str]:
    """Each page's file, and its name in the site."""
    found = {ROOT / name: target for name, target in FROM_ROOT.items()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = str(path.relative_to(ROOT / "docs"))
        found[path] = INDEX if name == "README.md" else TABBED if name in TABS else name
    return found


def stage(folder: Path, repository: str) -> None:
    """Put the pages, their pictures and the configuration into `folder`, ready to be built."""
    shutil.rmtree(folder, ignore_errors=True)
    names = pages()
    for path, name in names.items():
        target = folder / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rewritten(path, names, repository), encoding="utf-8")
    tabs = {tab: rewritten(ROOT / "docs" / name, names, repository) for name, tab in TABS.items()}
    (folder / "docs" / TABBED).write_text(tabbed(tabs), encoding="utf-8")
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
        tab = TABS.get(str(file.relative_to(ROOT / "docs"))) if file.is_relative_to(ROOT / "docs") else None
        if tab:
            heading = "-".join(filter(None, (tab.lower(), heading)))
        anchor = f"#{heading}" if heading else ""
        if file in names:
            return f"[{text}]({_relative(names[file], names[path])}{anchor})"
        if picture:
            inside = file.relative_to(ROOT / "docs") if file.is_relative_to(ROOT / "docs") else None
            return f"![{text}]({_relative(str(inside), names[path])})" if inside else text
        return f"[{text}]({repository}/blob/main/{file.relative_to(ROOT)}{anchor})" if repository else text

    def picture(match: re.Match[str]) -> str:
        """The site has the pictures of docs/ at its root, and makes the way from a page to them itself."""
        return f'{match[1]}{(path.parent / match[2]).relative_to(ROOT / "docs")}"'

    parts = _FENCED.split(diagrams.BLOCK.sub(_diagram, path.read_text(encoding="utf-8")))
    return "".join(
        part if number % 2 else _PICTURE.sub(picture, _LINK.sub(link, part)) for number, part in enumerate(parts)
    )


def _diagram(match: re.Match[str]) -> str:
    """A link to its picture, from a page in docs/: mermaid itself would need a megabyte of script."""
    name = diagrams.picture_of(match[1])
    if not (diagrams.FOLDER / name).is_file():
        raise SystemExit(f"docs/images/{name} is not there: make diagrams")
    return f"![Diagram](images/{name})\n"


def _relative(target: str, page: str) -> str:
    """`target` as a link from `page`, both by their names in the site."""
    up = "../" * page.count("/")
    return f"{up}{target}"


def tabbed(tabs: dict[str, str]) -> str:
    """One page with a tab for each text. A heading goes down by one level, and its anchor begins with the tab's title."""
    page = [f"# {TABBED_TITLE}", ""]
    for tab, text in tabs.items():
        page += [f'=== "{tab}"', ""]
        parts = _FENCED.split(text)
        moved = "".join(part if number % 2 else _moved(part, tab.lower()) for number, part in enumerate(parts))
        page += [f"    {line}" if line else "" for line in moved.splitlines()]
        page.append("")
    return "\n".join(page)


def _moved(text: str, tab: str) -> str:
    def heading(match: re.Match[str]) -> str:
        slug = "" if match[1] == "#" else f"-{_slug(match[2])}"
        return f"#{match[1]} {match[2]} {{ #{tab}{slug} }}"

    return re.sub(r"^(#+) (.+)$", heading, text, flags=re.MULTILINE)


def _slug(heading: str) -> str:
    """As the site makes anchors: lower case, without punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def navigation(names: dict[Path, str]) -> Iterator[str]:
    """Lines of `nav`: the sections of docs/README.md, each with the pages that it links, a page in the first that does."""
    titles = {name: title(path) for path, name in names.items()} | {TABBED: TABBED_TITLE}
    index = ROOT / "docs" / "README.md"
    yield f"  - {_quoted(titles['index.md'])}: index.md"
    yield f"  - {_quoted(titles[INDEX])}: {INDEX}"
    placed = {"index.md", INDEX}
    for section in re.split(r"^## ", index.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        yield f"  - {_quoted(section.partition(chr(10))[0].strip())}:"
        for _, _, target in _LINK.findall(section):
            name = names.get((index.parent / target.partition("#")[0]).resolve())
            if name is not None and name not in placed:
                placed.add(name)
                yield f"      - {_quoted(titles[name])}: {name}"
    left_out = sorted(set(titles) - placed)
    if left_out:
        raise SystemExit(f"docs/README.md links no page of {', '.join(left_out)}")


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
