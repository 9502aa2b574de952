"""Whatever a document or an error tells somebody to type exists: commands, options, values, variables, make targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from cdc_outbox.config.settings import OPTIONS
from tests.docs.command_lines import PROGRAM, WrongCommand, check, check_options, in_code, in_program_texts
from tests.docs.pages import PAGES, ROOT, headings, read, spans

SHELLS: Final = {"sh", "bash", "console"}


def wrong(commands: list[list[str]]) -> list[str]:
    """What is wrong with them, in words."""
    found = []
    for words in commands:
        try:
            check(words)
        except WrongCommand as error:
            found.append(f"{' '.join(words)}: {error}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_document_can_be_typed(page: str) -> None:
    blocks = [block.text for block in read(page).blocks if block.language in SHELLS]
    quoted = [span for span in spans(page) if span.startswith(f"{PROGRAM} ")]
    commands = [words for text in [*blocks, *quoted] for words in in_code(text)]

    assert wrong(commands) == []
    assert len(commands) >= len(quoted)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_a_document_exists_and_takes_the_value_it_is_shown_with(page: str) -> None:
    messages = {heading.strip("`") for heading in headings(page)}
    for span in spans(page):
        if span not in messages and re.match(r"--?[a-zA-Z][\w-]*( [\w:,.\[\]/-]+)*$", span):
            check_options([word for word in span.split() if not word.startswith("column[")])


def test_every_command_in_a_cure_exists() -> None:
    told = list(in_program_texts())
    bad = [f"{place}: {said}" for place, words in told for said in wrong([words])]

    assert bad == []
    assert ["slot", "recover"] in [words for _, words in told]


@pytest.mark.parametrize(
    "words", ["slto status", "slot", "run --on-poison forgive", "run --topics x", "sql instal", "slot status now"]
)
def test_a_command_that_does_not_exist_is_noticed(words: str) -> None:
    if words == "slot":
        check(words.split())  # a group alone shows its help
        return
    with pytest.raises(WrongCommand):
        check(words.split())


@pytest.mark.parametrize("page", PAGES)
def test_every_environment_variable_of_a_document_is_one_that_something_reads(page: str) -> None:
    ours = {option.variable for option in OPTIONS.values() if option.in_environment}
    ours |= {f"{option.variable}_FILE" for option in OPTIONS.values() if option.secret}
    source = "".join(path.read_text(encoding="utf-8") for path in sources())
    text = (ROOT / page).read_text(encoding="utf-8")
    for variable in set(re.findall(r"\bCDC_OUTBOX_[A-Z_]*[A-Z]\b", text)):
        if not variable.startswith("CDC_OUTBOX_KAFKA_"):  # any librdkafka property
            assert variable in ours or f'"{variable}"' in source, f"nothing reads {variable}"


def sources() -> list[Path]:
    return [*ROOT.glob("cdc_outbox/**/*.py"), *ROOT.glob("tests/plugins/*.py"), *ROOT.glob("tests/servers/*.py")]


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_of_a_document_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    blocks = [block.text for block in read(page).blocks if block.language in SHELLS]
    named = [match for text in [*blocks, *spans(page)] for match in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)]

    assert set(named) <= targets
    if page in {"README.md", "CONTRIBUTING.md"}:
        assert {"test"} <= set(named)
