"""The SQL of a partitioned outbox, rendered for any names."""

from __future__ import annotations

import re

import pytest

from cdc_outbox.commands.install import InstallOptions, read_sql, render_install
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName


def code(text: str) -> str:
    """Without comments."""
    return re.sub(r"--.*", "", text)


def test_the_partitioned_script_differs_in_the_key_and_the_partitions() -> None:
    ordinary, partitioned = render_install(InstallOptions()), render_install(InstallOptions(partitioned=True))
    changed = set(code(ordinary).splitlines()) - set(code(partitioned).splitlines())
    assert {line.split()[0] for line in changed} == {"seq", "headers", ");"}
    assert "PARTITION BY RANGE (created_at);" in partitioned
    assert partitioned.endswith(read_sql("partitions"))


def test_no_default_name_is_left_for_other_names() -> None:
    options = InstallOptions(table=TableName("My Schema", "it's"), publication="events", partitioned=True)
    names = r"\bpublic\b|\.outbox\b|\bcdc_outbox\b"
    assert re.findall(names, code(render_install(options))) == []
    assert "outbox_table  constant regclass := '\"My Schema\".\"it''s\"';" in render_install(options)


def test_messages_have_no_partitions() -> None:
    with pytest.raises(ConfigurationError, match="no table to partition"):
        render_install(InstallOptions(source="message", partitioned=True))
