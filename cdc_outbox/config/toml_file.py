"""The TOML file of `--config`: its keys are the options' names, its table `[kafka]` holds librdkafka properties.

In: a path. Out: parsed values by option name, and properties by their names, nested tables joined with dots.
Never: a key that is passed over, text expanded inside a value, or a secret in an error.
Errors are ConfigurationError (78): what cannot be read or is no TOML, a key that does not exist (with the nearest that
does), a value of the wrong type or content (with key, value and what was expected).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

from cdc_outbox.config.options import Option
from cdc_outbox.config.redaction import is_secret_property
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.config.value_types import Secret
from cdc_outbox.errors import ConfigurationError

Table: TypeAlias = Mapping[str, object]

KAFKA_TABLE: Final = "kafka"


class TomlFile:
    """One file. Secrets are read from it again at each use; everything else once."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __str__(self) -> str:
        return self._path

    def values(self) -> dict[str, object]:
        """By option name, the values it sets."""
        table = self._load()
        values: dict[str, object] = {}
        for key, value in table.items():
            if key == KAFKA_TABLE:
                self._flatten(value, "")
                continue
            option = self._option(key)
            if option.name in values:
                raise self._error(f"{option.name!r} is set twice, once with _ and once with -", "remove one of them")
            values[option.name] = self._value(key, option, value)
        return values

    def properties(self) -> dict[str, str]:
        """The properties of its table `[kafka]`, read now."""
        return self._flatten(self._load().get(KAFKA_TABLE, {}), "")

    def _load(self) -> Table:
        try:
            return tomllib.loads(Path(self._path).read_text(encoding="utf-8"))
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}", "name a readable file with --config") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "not UTF-8 text"
            raise self._error(f"is not TOML: {reason}", "compare with: cdc-outbox config example") from None

    def _option(self, key: str) -> Option:
        name = key.replace("_", "-")
        known = {option.name: option for option in OPTIONS.values() if option.in_file}
        if name in known:
            return known[name]
        nearest = _nearest(name, list(known))
        raise self._error(
            f"has an unknown key {key!r}" + (f"; did you mean {nearest!r}?" if nearest else ""),
            "the keys are the options' names: cdc-outbox config example prints them all",
        )

    def _value(self, key: str, option: Option, value: object) -> object:
        if option.secret and isinstance(value, str):
            return Secret.dsn(lambda: self._read_again(key))
        items = value if option.repeat and isinstance(value, list) else [value]
        if not items and option.default is not None:  # no table at all: every event would be passed over
            raise self._error(f"has {key} = {items!r}", f"write {option.value_type.expected}, or remove {key}")
        parsed = [self._parse(key, option, item) for item in items]
        return tuple(parsed) if option.repeat else parsed[0]

    def _read_again(self, key: str) -> str:
        value = self._load().get(key)
        if not isinstance(value, str):
            raise self._error(f"has no {key} any more", f"put {key} back")
        return value

    def _parse(self, key: str, option: Option, value: object) -> object:
        shown = "the value" if option.secret else repr(value)
        if type(value) not in option.value_type.toml:
            many = ", or a list of such" if option.repeat else ""
            raise self._error(
                f"has {key} = {shown}", f"write {option.value_type.expected}{many}, {_toml_types(option)}"
            )
        if isinstance(value, bool):
            return value
        try:
            return option.value_type.read(str(value))
        except ValueError:
            raise self._error(
                f"has {key} = {shown}", f"write {option.value_type.expected}, {_toml_types(option)}"
            ) from None

    def _flatten(self, value: object, name: str) -> dict[str, str]:
        """`sasl.username = "x"` is a table in a table to TOML, and one name to Kafka."""
        if isinstance(value, dict):
            flat: dict[str, str] = {}
            for key, inner in cast("Table", value).items():
                flat |= self._flatten(inner, f"{name}.{key}" if name else key)
            return flat
        if name and isinstance(value, (str, bool, int, float)):
            return {name: str(value).lower() if isinstance(value, bool) else str(value)}
        shown = "a value" if is_secret_property(name) else repr(value)
        place = f"[{KAFKA_TABLE}] {name}".strip()
        raise self._error(
            f"has {shown} as {place}", 'properties are texts, numbers or booleans: "sasl.username" = "relay"'
        )

    def _error(self, message: str, cure: str) -> ConfigurationError:
        return ConfigurationError(f"the configuration file {message}", code="config-file", cure=cure, file=self._path)


def _nearest(name: str, known: list[str]) -> str | None:
    """The option that was probably meant: another spelling of the flag, or the nearest word."""
    import difflib

    for option in OPTIONS.values():
        if f"--{name}" in option.aliases:
            return option.name
    matches = difflib.get_close_matches(name, [*known, KAFKA_TABLE], n=1)
    return matches[0] if matches else None


def _toml_types(option: Option) -> str:
    described = {str: "a string in quotes", int: "a number", float: "a number", bool: "without quotes"}
    return " or ".join(dict.fromkeys(described[each] for each in option.value_type.toml))
