"""What people type, read into values, and written back the same way.

In: one text, from a flag, the environment or a TOML file. Out: the value, or ValueError whose message says what was expected.
Never: a file, an environment variable, or a word about where the text came from; whoever asks knows that.

Each `Kind` reads and shows one sort of value: `kind.parse(kind.show(value)) == value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from cdc_outbox.identifiers import parse_table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value. `parse` raises ValueError; `toml` names the TOML types it may be written as."""

    metavar: str
    expected: str
    parse: Callable[[str], object]
    show: Callable[[object], str] = str
    toml: tuple[type, ...] = (str,)


MAX_DAYS: Final = 366
"""Days of an outbox that may be made ahead: each is a table, which every query over the outbox has to look at."""

_UNIT_BYTES: Final[dict[str, int]] = {
    **{unit: 1024**power for power, unit in enumerate(("", "ki", "mi", "gi"))},
    **{unit: 1024**power for power, unit in enumerate(("b", "kib", "mib", "gib"))},
    **{unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb"))},
}
"""Binary units with an i, decimal ones without, as Kubernetes and dd write them. A bare M is refused: it means either."""

_UNIT_SECONDS: Final[dict[str, float]] = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_TRUE: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"0", "false", "no", "off", "f", "n"})
"""What click reads as a switch, so that flag, environment and file agree."""


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
    for bits, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and size % (1 << bits) == 0:
            return f"{size >> bits}{unit}"
    return str(size)


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
    """Seconds, without digits that say nothing; whole days as days."""
    seconds = expect(float, value)
    days, rest = divmod(seconds, _UNIT_SECONDS["d"])
    return f"{days:.6g}d" if days and not rest else f"{seconds:.6g}s"


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
    """`true` or `false`, and the other words people use for them."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is not {SWITCH.expected}")
    return word in _TRUE


def parse_text(text: str) -> str:
    """Any text but the empty one. Surrounding space is kept: it may be meant."""
    if not text or "\0" in text:
        raise ValueError("must not be empty")
    return text


def parse_slot(text: str) -> str:
    """A slot's name, by the server's own rule: it goes unquoted into a replication command."""
    if not re.fullmatch(r"[a-z0-9_]{1,63}", text):
        raise ValueError(f"{text!r} is not {SLOT.expected}")
    return text


def parse_name(text: str) -> str:
    """A name as the catalog has it. At most 63 bytes: PostgreSQL cuts longer ones, and then nothing matches."""
    if not text or "\0" in text or len(text.encode()) > 63:
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
"""Listening on all addresses includes the loopback one."""


def address_to_ask(text: str) -> tuple[str, int]:
    """Host and port at which somebody who listens on `text` can be asked from this machine. Raises ValueError."""
    host, port = split_address(text)
    return _ANY_ADDRESS.get(host, host), port


def split_list(text: str) -> list[str]:
    """Split at commas outside of double quotes; surrounding space goes, quotes stay. A quote without its partner: one item."""
    if text.count('"') % 2:
        return [text]
    items = [item.strip() for item in re.findall(r'(?:"[^"]*"|[^,"])+', text)]
    return [item for item in items if item]


def parse_column(text: str) -> str:
    """A column's name exactly as the table has it; double quotes around it are understood, and not needed."""
    name = text.strip()
    if re.fullmatch(r'"(?:[^"]|"")+"', name):
        name = name[1:-1].replace('""', '"')
    elif not name or '"' in name:
        raise ValueError(f"{text!r} is not {COLUMN.expected}")
    return name


def parse_columns(text: str) -> tuple[str, ...]:
    """Columns' names, separated by commas: they are tried in this order."""
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


def choice(*words: str) -> Kind:
    """The kind of a value that is one of `words`."""
    expected = "one of " + ", ".join(words)

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not {expected}")
        return text

    return Kind("[" + "|".join(words) + "]", expected, parse)


def expect(kind: type[T], value: object) -> T:
    """`value`, which is one of these as it was parsed by a `Kind`: for the type checker, and an assertion."""
    assert isinstance(value, kind), f"{type(value).__name__} is no {kind.__name__}"
    return value


def expect_all(kind: type[T], value: object) -> tuple[T, ...]:
    """As `expect`, for each of several."""
    return tuple(expect(kind, item) for item in expect(tuple, value))


TEXT: Final = Kind("TEXT", "a text", parse_text)
PATH: Final = Kind("FILE", "a file's path", parse_text)
SWITCH: Final = Kind("BOOLEAN", "true or false", parse_switch, lambda value: str(value).lower(), (bool,))
COUNT: Final = Kind("N", "a whole number above 0", parse_count, toml=(int,))
DAYS: Final = Kind("DAYS", f"a number of days, 1 to {MAX_DAYS}", parse_days, toml=(int,))
SIZE: Final = Kind("BYTES", "a size in bytes above 0, such as 16MiB or 16777216", parse_size, show_size, (int, str))
SECONDS: Final = Kind(
    "DURATION", "a duration above 0, such as 25, 25s or 2m", parse_positive_duration, show_duration, (int, float, str)
)
SECONDS_OR_ZERO: Final = Kind(
    "DURATION", "a duration such as 0, 25, 25s or 2m", parse_duration, show_duration, (int, float, str)
)
SLOT: Final = Kind("NAME", "a slot name: 1 to 63 of a-z, 0-9 and _", parse_slot)
NAME: Final = Kind("NAME", "a name of 1 to 63 bytes", parse_name)
ADDRESS: Final = Kind("HOST:PORT", "host:port, [IPv6 address]:port, or off", parse_address)
TABLE: Final = Kind("TABLE", 'a table name: table, schema.table or "Schema"."Table"', parse_table)
COLUMN: Final = Kind("COLUMN", "a column's name", parse_column, show_column)
COLUMNS: Final = Kind("COLUMN[,COLUMN]", "columns' names, separated by commas", parse_columns, show_columns)
