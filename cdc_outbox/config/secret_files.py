"""Secrets that an environment variable does not hold but points to: `CDC_OUTBOX_DSN_FILE=/run/secrets/dsn`.

In: a variable's name, the environment. Out: the file's text without its last line end, read at each call: secrets rotate.
Never: a secret in an error. Errors are ConfigurationError (78) and name the variable and the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdc_outbox.errors import CannotConnect, ConfigurationError


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that holds one secret."""

    variable: str
    path: str

    @classmethod
    def named_by(cls, variable: str, environ: Mapping[str, str]) -> SecretFile | None:
        """The file that `<variable>_FILE` names; None if it is not set. Raises an error if both are set."""
        path = environ.get(f"{variable}_FILE")
        if not path:
            return None
        if environ.get(variable):
            raise ConfigurationError(
                f"both {variable} and {variable}_FILE are set", code="secret-file", cure="unset one of them"
            )
        return cls(f"{variable}_FILE", path)

    def read(self) -> str:
        """The secret. Raises CannotConnect: the file is not there, not readable, not text, or empty."""
        try:
            text = Path(self.path).read_text(encoding="utf-8")
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}", "name a readable file") from None
        except UnicodeDecodeError:
            raise self._error("is not UTF-8 text", "write the secret as plain text") from None
        secret = text.removesuffix("\n").removesuffix("\r")
        if not secret:
            raise self._error("is empty", "write the secret into it")
        return secret

    def _error(self, message: str, cure: str) -> CannotConnect:
        return CannotConnect(
            f"the file that {self.variable} names {message}", code="secret-file", cure=cure, file=self.path
        )
