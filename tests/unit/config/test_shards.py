"""Shards: what people type, what slots and publications are called, and which row filter is a shard's own."""

from __future__ import annotations

import pytest

from cdc_outbox.commands.install import InstallOptions, render_install
from cdc_outbox.config.shards import NamedShard, Shard, ShardFilter, named_shard, parse_shard, with_siblings
from cdc_outbox.errors import ConfigurationError
from tests.plugins.command import run_command

OWN = ShardFilter(Shard(1, 2), ("aggregateid", "My Key"))


def test_a_shard_is_written_as_it_is_read() -> None:
    assert parse_shard(" 0/2 ") == Shard(0, 2)
    assert str(parse_shard("63/64")) == "63/64"


@pytest.mark.parametrize("text", ["2/2", "0/1", "0/0", "-1/2", "0/65", "1", "a/b", "0/2/3", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a shard"):
        parse_shard(text)


@pytest.mark.parametrize("shard", [Shard(0, 2), Shard(1, 2), Shard(63, 64)])
@pytest.mark.parametrize("base", ["cdc_outbox", "a_0_of_2", "b_of_c"])
def test_a_shard_is_identified_by_its_name(shard: Shard, base: str) -> None:
    name = shard.name(base)
    assert named_shard(name) == NamedShard(base, shard)
    assert name in with_siblings(name)
    assert len(with_siblings(name)) == shard.count


@pytest.mark.parametrize(
    "name", ["cdc_outbox", "s_2_of_2", "s_0_of_1", "s_0_of_65", "s_00_of_2", "_0_of_2", "s_0_of_2x"]
)
def test_any_other_name_is_no_shards(name: str) -> None:
    assert named_shard(name) is None
    assert with_siblings(name) == (name,)


def test_its_slot_and_its_publication_are_named_after_it() -> None:
    assert Shard(0, 2).name("cdc_outbox") == "cdc_outbox_0_of_2"
    with pytest.raises(ConfigurationError, match="longer than 63 bytes"):
        Shard(0, 2).name("x" * 60)


@pytest.mark.parametrize(
    "printed",
    [
        "(mod((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647), 2) = 1)",
        "(mod((hashtext((COALESCE(aggregateid, ''::character varying))::text) & 2147483647), 2) = 1)",
        "(mod((hashtext((COALESCE(aggregateid, ''::character varying(255)))::text) & 2147483647), 2) = 1)",
        "(mod((hashtext(COALESCE(\"My Key\", ''::text)) & 2147483647), 2) = 1)",
    ],
)
def test_its_own_filter_is_known_as_the_server_prints_it(printed: str) -> None:
    assert OWN.is_own(printed)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "(mod((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647), 2) = 0)",
        "(mod((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647), 4) = 1)",
        "(mod((hashtext(COALESCE(type, ''::text)) & 2147483647), 2) = 1)",
        "(mod((hashtext(COALESCE(aggregateid, 'a'::text)) & 2147483647), 2) = 1)",
        "(mod(hashtext(aggregateid), 2) = 1)",
        "(mod((public.hashtext(COALESCE(aggregateid, ''::text)) & 2147483647), 2) = 1)",
        "(mod((hashtext(COALESCE(aggregateid, ''::text)) OPERATOR(public.&) 2147483647), 2) = 1)",
        "((mod((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647), 2) = 1) AND (seq > 5))",
    ],
)
def test_any_other_filter_is_not_its_own(printed: str) -> None:
    assert not OWN.is_own(printed)


def test_rows_are_divided_by_the_first_key_column_that_the_table_has() -> None:
    condition = OWN.condition(["id", "My Key"])
    assert condition == (
        "pg_catalog.mod(pg_catalog.hashtext(coalesce(\"My Key\", '')::pg_catalog.text) OPERATOR(pg_catalog.&) 2147483647, 2)"
        " OPERATOR(pg_catalog.=) 1"
    )
    assert OWN.is_own(condition)
    assert OWN.condition(["id"]) is None


def test_install_prints_one_publication_more_for_each_shard() -> None:
    text = render_install(InstallOptions(publication="Events", shards=4))
    assert "shards            constant integer := 4;" in text
    assert "publication_name  constant name := 'Events';" in text.partition("shards.sql")[2] or "'Events'" in text
    assert "shards " not in render_install(InstallOptions())


def test_logical_messages_have_no_shards() -> None:
    with pytest.raises(ConfigurationError, match="logical messages have no shards"):
        InstallOptions(source="message", shards=2)
    done = run_command("run", "--brokers", "b:1", "--shard", "0/2", "--source", "both")
    assert done.returncode == 2
    assert "--shard applies to rows of a table" in done.stderr


def test_a_shard_does_not_prune_what_it_cannot_know_to_be_delivered() -> None:
    done = run_command("run", "--brokers", "b:1", "--shard", "0/2", "--prune-after", "1d")
    assert done.returncode == 2
    assert "--shard and --prune-after" in done.stderr
