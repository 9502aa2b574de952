"""Sample texts for options: none of them is the option's default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_outbox.config import value_types
from cdc_outbox.config.value_types import ValueType

if TYPE_CHECKING:
    from cdc_outbox.config.options import Option

SAMPLES: dict[ValueType, tuple[str, str, str]] = {
    value_types.DSN: ("host=flag", "host=variable", "host=file"),
    value_types.HEADER: ("a:b", "c", "d:e"),
    value_types.TEXT: ("flag:1", "variable:1", "file:1"),
    value_types.PROPERTY: ("a=1", "b=2", "c=3"),
    value_types.PATH: ("flag", "variable", "file"),
    value_types.COUNT: ("11", "12", "13"),
    value_types.DAYS: ("7", "8", "9"),
    value_types.SIZE: ("1MiB", "2MiB", "3MiB"),
    value_types.SECONDS: ("1s", "2s", "3s"),
    value_types.SECONDS_OR_ZERO: ("1s", "2s", "3s"),
    value_types.SLOT: ("flag", "variable", "file"),
    value_types.NAME: ("flag", "variable", "file"),
    value_types.SHARD: ("0/2", "1/2", "2/3"),
    value_types.ADDRESS: ("flag:1", "variable:1", "file:1"),
    value_types.TABLE: ("a.flag", "a.variable", "a.file"),
    value_types.COLUMN: ("flag", "variable", "file"),
    value_types.COLUMNS: ("flag,flag2", "variable,variable2", "file,file2"),
    value_types.SWITCH: ("false", "true", "false"),
}
"""Three texts of each type: for the flag, the variable and the file."""


def samples(option: Option) -> tuple[str, str, str]:
    """Texts for the flag, the variable and the file; neighbours differ."""
    if option.value_type in SAMPLES:
        return SAMPLES[option.value_type]
    allowed = option.value_type.metavar.strip("[]").split("|")
    return allowed[0], allowed[-1], allowed[0]


def other_than_default(option: Option) -> str:
    """A text that is not the default."""
    return next(text for text in samples(option) if text != option.default)
