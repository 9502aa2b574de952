"""A shard of an outbox: the condition of its rows, and the names of its slot and publication.

In: `0/2`, the first of two. Out: names, and the condition on the key that is the same in the publication's row filter and in
the query of a first start, so that stream and snapshot agree.
Never: a key in two shards, or in none: a NULL key belongs to the shard of the empty one.

A row filter may use immutable built-in functions only: hashtext is one, of 15 and later alike. Its values may differ between
versions, but a publication and its rows are always those of one server. The condition names pg_catalog and casts the key to
text: without the cast, a function public.hashtext(varchar) of another role would be called for a key of that type.
PostgreSQL manual: 29.4 Row Filters; CREATE PUBLICATION (WHERE).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import NAME_BYTES, quote_identifier

MOST: Final = 64
"""Shards of one outbox. The server decodes all of its WAL once for each shard, so more than a few cost much."""

_POSITIVE: Final = 2**31 - 1
"""Mask that removes the sign of a hash."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count`, numbered from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def name(self, base: str) -> str:
        """The name of its slot or publication: `cdc_outbox_0_of_2`. Raises ConfigurationError when that is too long."""
        name = f"{base}_{self.index}_of_{self.count}"
        if len(name.encode()) > NAME_BYTES:
            raise ConfigurationError(
                f"the name {name} of a shard's slot or publication is longer than {NAME_BYTES} bytes",
                code="shard-name",
                cure="choose a shorter --slot or --publication",
            )
        return name

    def condition(self, key: str) -> str:
        """SQL that is true of its rows; `key`: the column's name."""
        text = f"coalesce({quote_identifier(key)}, '')::pg_catalog.text"
        hashed = f"pg_catalog.hashtext({text}) OPERATOR(pg_catalog.&) {_POSITIVE}"
        return f"pg_catalog.mod({hashed}, {self.count}) OPERATOR(pg_catalog.=) {self.index}"


@dataclass(frozen=True, slots=True)
class NamedShard:
    """A shard, and the beginning that the names of all its slots or publications share."""

    base: str
    shard: Shard


def named_shard(name: str) -> NamedShard | None:
    """The shard whose slot or publication has this name: `cdc_outbox_0_of_2`. None if no shard has this name."""
    match = re.fullmatch(r"(.+)_(0|[1-9][0-9]?)_of_([1-9][0-9]?)", name)
    if match is None or not 2 <= int(match[3]) <= MOST or int(match[2]) >= int(match[3]):
        return None
    return NamedShard(match[1], Shard(int(match[2]), int(match[3])))


def with_siblings(name: str) -> tuple[str, ...]:
    """The slots that rows are shared by: of a shard's slot those of all shards, else the one that has this name."""
    found = named_shard(name)
    if found is None:
        return (name,)
    return tuple(Shard(index, found.shard.count).name(found.base) for index in range(found.shard.count))


@dataclass(frozen=True, slots=True)
class ShardFilter:
    """A shard, and the names that the key column may have."""

    shard: Shard
    keys: tuple[str, ...]

    def is_own(self, row_filter: str) -> bool:
        """Whether a publication's row filter, as the server prints it, is this shard's."""
        return _bare(row_filter) in {_bare(self.shard.condition(key)) for key in self.keys}

    def condition(self, columns: Iterable[str]) -> str | None:
        """The condition for a table that has these columns; None if none is the key: the reader of the rows reports it."""
        there = set(columns)
        key = next((name for name in self.keys if name in there), None)
        return None if key is None else self.shard.condition(key)


def parse_shard(text: str) -> Shard:
    """`0/2`: the first of two. Raises ValueError."""
    match = re.fullmatch(r"\s*([0-9]{1,4})/([0-9]{1,4})\s*", text)
    if match is None or not 2 <= int(match[2]) <= MOST or int(match[1]) >= int(match[2]):
        raise ValueError(f"{text!r} is not a shard: 0/2 and 1/2 are the two of two, up to {MOST}")
    return Shard(int(match[1]), int(match[2]))


def _bare(condition: str) -> str:
    """The condition without what the server adds or leaves out when it prints it: schema, casts, brackets, blanks, quotes."""
    text = re.sub(r"OPERATOR\(pg_catalog\.(\S+)\)", r"\1", condition)
    text = re.sub(r"\bpg_catalog\.", "", text)
    text = re.sub(r"::(character varying|[a-z]+)(\([0-9]+\))?", "", text)
    text = re.sub(r'"([a-z_][a-z0-9_]*)"', r"\1", text)
    return re.sub(r"[\s()]", "", text.replace("COALESCE", "coalesce"))
