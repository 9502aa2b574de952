"""Types of option values: text to value, and value to text.

In: one text, from a flag, an environment variable or a TOML file. Out: the value, or ValueError with the expected form.
Never: a file, an environment variable, or the source of the text: the caller knows that. A secret in an error or a repr.

Each `ValueType` reads and shows one type of value: `value_type.parse(value_type.show(value)) == value`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from cdc_outbox.config.redaction import MASK, masked_dsn, remember_dsn
from cdc_outbox.config.shards import parse_shard
from cdc_outbox.identifiers import NAME_BYTES, is_c_string, parse_table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValueType:
    """The type of an option's value. `parse` raises ValueError; `toml` lists the TOML types that are accepted."""

    metavar: str
    expected: str
    parse: Callable[[str], object]
    show: Callable[[object], str] = str
    toml: tuple[type, ...] = (str,)

    def read(self, text: str) -> object:
        """Parse a text of a user. Raises ValueError also for one that a C library would not take as it is."""
        if not is_c_string(text):
            raise ValueError("it is no UTF-8 text, or holds a NUL character")  # without the text: it may be a secret
        return self.parse(text)


class Secret:
    """A value that prints as `***`. `reveal()` returns it; one that comes from a file is read again at each call."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    @classmethod
    def of(cls, value: str) -> Secret:
        """A secret that is already known."""
        return cls(lambda: value)

    @classmethod
    def dsn(cls, read: Callable[[], str]) -> Secret:
        """The connection string that `read` returns. From the first `reveal()` on, `redaction.scrub` removes its secrets."""

        def reveal() -> str:
            dsn = read()
            remember_dsn(dsn)
            return dsn

        return cls(reveal)

    def reveal(self) -> str:
        """The value, for the driver that needs it. Raises ConfigurationError if its file cannot be read."""
        return self._read()

    def __repr__(self) -> str:
        return MASK


@dataclass(frozen=True, slots=True)
class HeaderColumn:
    """`--header column:name`: the column's text becomes a header of this name."""

    column: str
    name: str


MAX_DAYS: Final = 366
"""Days of partitions that may be created ahead. Each partition is a table that the planner reads for every query."""

_UNIT_BYTES: Final[dict[str, int]] = {
    **{unit: 1024**power for power, unit in enumerate(("", "ki", "mi", "gi"))},
    **{unit: 1024**power for power, unit in enumerate(("b", "kib", "mib", "gib"))},
    **{unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb"))},
}
"""Binary units with an i, decimal ones without, as Kubernetes and dd write them. A bare M is refused: it means either."""

_UNIT_SECONDS: Final[dict[str, float]] = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_TRUE: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"0", "false", "no", "off", "f", "n"})
"""The texts that click accepts for a switch, so that flag, variable and file agree."""


def parse_size(text: str) -> int:
    """`16MiB`, `16Mi`, `16MB`, `16777216` as bytes, more than 0."""
    match = re.fullmatch(r"([0-9]+)\s*([A-Za-z]*)", text.strip())
    unit = _UNIT_BYTES.get(match[2].lower()) if match else None
    if match is None or unit is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not {SIZE.expected}")
    return int(match[1]) * unit


def show_size(value: object) -> str:
    """Bytes in the largest binary unit that leaves no rest."""
    size: int = expect(int, value)
    for unit in ("GiB", "MiB", "KiB"):
        number, rest = divmod(size, _UNIT_BYTES[unit.lower()])
        if number and not rest:
            return f"{number}{unit}"
    return str(size)


def size_text(count: int) -> str:
    """Bytes for a person, rounded: `1.5 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count:,} bytes"


def parse_duration(text: str) -> float:
    """`25`, `25s`, `1.5m`, `500ms`, `7d` as seconds, 0 or more."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.strip())
    unit = _UNIT_SECONDS.get(match[2]) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not {SECONDS_OR_ZERO.expected}")
    return float(match[1]) * unit


def parse_positive_duration(text: str) -> float:
    """Like `parse_duration`, but more than 0."""
    seconds = parse_duration(text)
    if seconds == 0:
        raise ValueError(f"{text!r} is not {SECONDS.expected}")
    return seconds


def show_duration(value: object) -> str:
    """Seconds in at most six digits; whole days as days, less than a second as milliseconds."""
    seconds = expect(float, value)
    if 0 < seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    days, rest = divmod(seconds, _UNIT_SECONDS["d"])
    return f"{days:.6g}d" if days and not rest else f"{seconds:.6g}s"


def parse_moment(text: str) -> str:
    """A time as PostgreSQL reads it; without an offset, UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {MOMENT.expected}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def parse_moment_or_age(text: str) -> str:
    """Like `parse_moment`; or a duration, which is counted back from now, on the clock of this machine."""
    with contextlib.suppress(ValueError):
        return parse_moment(text)
    try:
        return (datetime.now(UTC) - timedelta(seconds=parse_duration(text))).isoformat()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not {MOMENT_OR_AGE.expected}") from None


def parse_count(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()) or int(text) == 0:
        raise ValueError(f"{text!r} is not {COUNT.expected}")
    return int(text)


def parse_days(text: str) -> int:
    """A whole number of days, 1 to MAX_DAYS."""
    if not re.fullmatch(r"[0-9]{1,3}", text.strip()) or not 1 <= int(text) <= MAX_DAYS:
        raise ValueError(f"{text!r} is not {DAYS.expected}")
    return int(text)


def parse_switch(text: str) -> bool:
    """`true` or `false`, and their usual synonyms."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is not {SWITCH.expected}")
    return word in _TRUE


def parse_text(text: str) -> str:
    """Any text that is not empty. Surrounding space is kept."""
    if not text or "\0" in text:
        raise ValueError("must not be empty")
    return text


def parse_slot(text: str) -> str:
    """A slot name, by the server's rule (ReplicationSlotValidateName)."""
    if not re.fullmatch(rf"[a-z0-9_]{{1,{NAME_BYTES}}}", text):
        raise ValueError(f"{text!r} is not {SLOT.expected}")
    return text


def parse_name(text: str) -> str:
    """A name as the catalog has it, of at most `NAME_BYTES`: PostgreSQL truncates longer ones, and then none matches."""
    if not text or "\0" in text or len(text.encode()) > NAME_BYTES:
        raise ValueError(f"{text!r} is not {NAME.expected}")
    return text


def parse_address(text: str) -> str:
    """`host:port`, `[::1]:port` or `off`."""
    if text != "off":
        split_address(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port of `host:port`; port 0 lets the system choose.

    Raises ValueError for anything else, `off` included.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not {ADDRESS.expected}")
    return match[1] or match[2], int(match[3])


_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to ask, not where to listen
"""A server that listens on all addresses is reached at the loopback address."""


def address_to_ask(text: str) -> tuple[str, int]:
    """Host and port at which a server that listens on `text` is reached from this machine. Raises ValueError."""
    host, port = split_address(text)
    return _ANY_ADDRESS.get(host, host), port


def split_list(text: str) -> list[str]:
    """Split at commas outside double quotes. Strip surrounding space, keep quotes. With an unpaired quote: one item."""
    if text.count('"') % 2:
        return [text]
    items = [item.strip() for item in re.findall(r'(?:"[^"]*"|[^,"])+', text)]
    return [item for item in items if item]


def parse_column(text: str) -> str:
    """A column's name as in the table, case included; surrounding double quotes are optional."""
    name = text.strip()
    if re.fullmatch(r'"(?:[^"]|"")+"', name):
        name = name[1:-1].replace('""', '"')
    elif not name or '"' in name:
        raise ValueError(f"{text!r} is not {COLUMN.expected}")
    return name


def parse_columns(text: str) -> tuple[str, ...]:
    """Column names, separated by commas, in the order in which they are tried."""
    names = tuple(parse_column(item) for item in split_list(text))
    if not names:
        raise ValueError(f"{text!r} is not {COLUMNS.expected}")
    return names


def show_column(value: object) -> str:
    """A column's name, in quotes where a comma, a colon, a quote or space would be misread."""
    name = expect(str, value)
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",:]|^\s|\s$', name) else name


def show_columns(value: object) -> str:
    """The names as `parse_columns` reads them."""
    return ",".join(show_column(name) for name in expect(tuple, value))


def parse_header(text: str) -> HeaderColumn:
    """`column`, or `column:name`. Raises ValueError."""
    match = re.fullmatch(r'\s*("(?:[^"]|"")+"|[^":,\s][^":,]*)(?::(.+))?', text)
    if match is None:
        raise ValueError(f"{text!r} is not {HEADER.expected}")
    column = parse_column(match[1])
    return HeaderColumn(column, (match[2] or column).strip())


def show_header(value: object) -> str:
    """A header column as `parse_header` reads it."""
    header = expect(HeaderColumn, value)
    column = show_column(header.column)
    return column if header.name == header.column else f"{column}:{header.name}"


def parse_property(text: str) -> tuple[str, str]:
    """`property=value`, or `list` with an empty value. Raises ValueError without the text, which may be a secret."""
    name, equals, value = text.partition("=")
    if text != "list" and (not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name.strip())):
        raise ValueError("expected property=value, such as sasl.username=relay, or list")
    return name.strip(), value


def choice(*allowed: str) -> ValueType:
    """The type of a value that is one of `allowed`."""
    expected = "one of " + ", ".join(allowed)

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text!r} is not {expected}")
        return text

    return ValueType("[" + "|".join(allowed) + "]", expected, parse)


def expect(expected_type: type[T], value: object) -> T:
    """`value`, for the type checker. Raises AssertionError if it is of another type."""
    assert isinstance(value, expected_type), f"{type(value).__name__} is no {expected_type.__name__}"
    return value


TEXT: Final = ValueType("TEXT", "a text", parse_text)
PATH: Final = ValueType("FILE", "a file's path", parse_text)
SWITCH: Final = ValueType("BOOLEAN", "true or false", parse_switch, lambda value: str(value).lower(), (bool,))
COUNT: Final = ValueType("N", "a whole number above 0", parse_count, toml=(int,))
DAYS: Final = ValueType("DAYS", f"a number of days, 1 to {MAX_DAYS}", parse_days, toml=(int,))
SIZE: Final = ValueType(
    "BYTES", "a size in bytes above 0, such as 16MiB or 16777216", parse_size, show_size, (int, str)
)
SECONDS: Final = ValueType(
    "DURATION", "a duration above 0, such as 25, 25s or 2m", parse_positive_duration, show_duration, (int, float, str)
)
SECONDS_OR_ZERO: Final = ValueType(
    "DURATION", "a duration such as 0, 25, 25s or 2m", parse_duration, show_duration, (int, float, str)
)
MOMENT: Final = ValueType(
    "TIME", "a time such as 2026-11-23T08:00:00Z (ISO 8601; without an offset: UTC)", parse_moment
)
MOMENT_OR_AGE: Final = ValueType(
    "TIME|DURATION", f"{MOMENT.expected}, or a duration before now such as 7d or 12h", parse_moment_or_age
)
SLOT: Final = ValueType("NAME", f"a slot name: 1 to {NAME_BYTES} of a-z, 0-9 and _", parse_slot)
NAME: Final = ValueType("NAME", f"a name of 1 to {NAME_BYTES} bytes", parse_name)
ADDRESS: Final = ValueType("HOST:PORT", "host:port, [IPv6 address]:port, or off", parse_address)
TABLE: Final = ValueType("TABLE", 'a table name: table, schema.table or "Schema"."Table"', parse_table)
COLUMN: Final = ValueType("COLUMN", "a column's name", parse_column, show_column)
COLUMNS: Final = ValueType("COLUMN[,COLUMN]", "columns' names, separated by commas", parse_columns, show_columns)
DSN: Final = ValueType(
    "DSN",
    "a connection string",
    lambda text: Secret.dsn(lambda: text),
    lambda value: masked_dsn(expect(Secret, value).reveal()),
)
HEADER: Final = ValueType("COLUMN[:NAME]", "column or column:header-name", parse_header, show_header)
SHARD: Final = ValueType("I/N", "a shard, such as 0/2", parse_shard)
PROPERTY: Final = ValueType("KEY=VALUE", "property=value", parse_property)
