"""A `values.Kind` for options that only one command has, and that are not in the table of `options.OPTIONS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cdc_outbox.config.value_types import Kind

if TYPE_CHECKING:
    _AnyType = click.ParamType[object]
else:
    _AnyType = click.ParamType  # before click 8.4 it is not generic at run time


class KindType(_AnyType):
    """As click wants it. A value that is parsed already passes."""

    def __init__(self, kind: Kind) -> None:
        self.name = kind.metavar
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Parse. click makes a usage error (2) of a failure, and names the flag in it."""
        if not isinstance(value, str):
            return value
        try:
            return self._kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
