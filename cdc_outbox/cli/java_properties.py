"""A properties file, as Kafka's own tools call `client.properties`. In: a path. Out: names and values."""

from __future__ import annotations

from pathlib import Path

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.java_properties import parse_properties


def read_properties(path: str) -> dict[str, str]:
    """The file's properties. Raises ConfigurationError with the line's number."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the Kafka properties file cannot be read: {error.strerror}",
            cure="name a readable file with -F",
            file=path,
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError("the Kafka properties file is not UTF-8 text", cure="convert it", file=path) from None
    return parse_properties(text, path)
