"""One option, as the metadata of the dataclass field that it sets.

In: a frozen dataclass whose fields carry `option(...)` as metadata. Out: an `Option` for each of these fields. Flags,
variables, TOML keys, `config show`, `config example` and docs/reference/configuration.md are derived from it.
Never: a chosen value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, TypeVar, cast

from cdc_outbox.config.value_types import DSN, ValueType

T = TypeVar("T")

_METADATA: Final = "cdc_outbox.option"
"""Key in a field's metadata."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `default` is the text that has the same effect as leaving the option out; None: there is no such text."""

    value_type: ValueType
    section: str
    """Heading in help texts and in the reference."""
    help: str
    name: str = ""
    example: str = ""
    """Value in `config example` if there is no default."""
    aliases: tuple[str, ...] = ()
    """More flags of the same meaning."""
    short_only: bool = False
    """Only the aliases are flags."""
    repeat: bool = False
    """The field is a tuple with one item for each occurrence."""
    in_environment: bool = True
    in_file: bool = True
    default: str | None = None
    path: tuple[str, ...] = field(default=(), repr=False)
    """Attributes from `Settings` to the field, such as ("columns", "id")."""

    @property
    def key(self) -> str:
        """The name as an identifier: the parameter of a command's function."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"CDC_OUTBOX_{self.key.upper()}"

    @property
    def secret(self) -> bool:
        """Whether the value is shown masked, and `<variable>_FILE` may name a file that holds it."""
        return self.value_type is DSN

    def show(self, value: object) -> str | None:
        """A parsed value as its text; items of a repeated option are separated by commas. None: no value."""
        if value is None:
            return None
        if self.repeat and isinstance(value, tuple):
            return ",".join(self.value_type.show(item) for item in value)
        return self.value_type.show(value)


def option(
    value_type: ValueType,
    section: str,
    help: str,  # noqa: A002  # the name that click and argparse use
    **more: Any,
) -> Mapping[str, Option]:
    """Metadata of a field. `more`: attributes of `Option`; its `name` is the field's with `-` for `_` unless given here."""
    return {_METADATA: Option(value_type, section, help, **more)}


def setting(default: T, value_type: ValueType, section: str, help: str, **more: Any) -> T:  # noqa: A002
    """A field with a default and the metadata of `option`."""
    made: Any = field(default=default, metadata=option(value_type, section, help, **more))
    return cast("T", made)


def options_of(settings: type) -> dict[str, Option]:
    """By name, the options of a dataclass, in the order of its fields.

    Those of a dataclass in one of its fields have its name as a suffix: `id` of `columns` is id-column.
    """
    return {found.name: found for found in _options(settings, ())}


def _options(settings: type, path: tuple[str, ...]) -> list[Option]:
    found: list[Option] = []
    for each in fields(settings):
        factory: Any = each.default_factory
        described: Option | None = each.metadata.get(_METADATA)
        if described is not None:
            name = described.name or "-".join(
                (each.name.replace("_", "-"), *(group.removesuffix("s") for group in path))
            )
            default = None if each.default in {MISSING, None, ()} else described.show(each.default)
            found.append(replace(described, name=name, default=default, path=(*path, each.name)))
        elif is_dataclass(factory):
            found += _options(cast("type", factory), (*path, each.name))
    return found
