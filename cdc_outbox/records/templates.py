"""Text with the names of columns in braces: the topic, the source and the content type of an event. Pure.

In: a template of the settings; the columns' values of one event. Out: the text for the record.
Never: a text that is not allowed as a topic, URI reference or media type, or a text in place of a NULL.

    --topic         TopicTemplate        outbox.event.{aggregatetype}
    --ce-source     SourceTemplate       /shop/{aggregatetype}
    --content-type  ContentTypeTemplate  application/json
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import quote

from cdc_outbox.errors import ConfigurationError

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
"""A column's name in braces, in a template."""

_TOPIC_RULE: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_RESERVED: Final = frozenset({".", ".."})
"""Kafka's rule (org.apache.kafka.common.internals.Topic)."""

_JSON: Final = re.compile(r"[^/;]+/(?:[^;]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
"""Media types whose data the JSON event format embeds unchanged (3.1)."""

_MEDIA_TYPE: Final = re.compile(
    r"(?!application/cloudevents)[\w!#$&^.+-]+/[\w!#$&^.+-]+(?: *;[ -~]*)?", re.ASCII | re.IGNORECASE
)
"""RFC 2046, names as in RFC 6838. Not that of a CloudEvent: receivers would mistake the payload for an envelope."""

CONTENT_TYPE_CACHE_ENTRIES: Final = 1_000
"""Most content types remembered by their columns: an application has a few. Beyond it, the cache is emptied."""

CONTENT_TYPE_CACHE_LENGTH: Final = 200
"""Most characters of a remembered content type: its parameters may have any length."""

_SOURCE: Final = re.compile(r"[^\s\x00-\x1f\x7f{}]+")

_SAFE: Final = "/:@!$&'()*+,;="
"""Characters of a value that stay unescaped in a URI reference, besides letters, digits and -._~ (RFC 3986, pchar and /)."""


class Template:
    """Text with the names of columns in braces."""

    def __init__(self, template: str) -> None:
        pieces = PLACEHOLDER.split(template)
        self.literals = tuple(pieces[0::2])
        self.columns = tuple(pieces[1::2])

    def join(self, values: tuple[bytes | None, ...], purpose: str, show: Callable[[bytes], str] = bytes.decode) -> str:
        """Insert the columns' values, each converted by `show`. Raises ValueError, which names `purpose`, when one is NULL."""
        text = self.literals[0]
        for name, value, literal in zip(self.columns, values, self.literals[1:], strict=True):
            if value is None:
                raise ValueError(f"column {name}, which names the {purpose}, is NULL")
            text += show(value) + literal
        return text


class TopicTemplate(Template):
    """`--topic`: for example `outbox.event.{aggregatetype}`."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for an unpaired brace, or text that a topic cannot contain."""
        super().__init__(template)
        shortest = "".join(self.literals) + ("x" if self.columns else "")
        if "" in self.columns or shortest in _RESERVED or not _TOPIC_RULE.fullmatch(shortest):
            raise ConfigurationError(
                f"--topic {template!r} cannot make a topic: Kafka allows [A-Za-z0-9._-], 1 to 249 of them",
                code="topic-template",
                cure="write a template such as outbox.event.{aggregatetype}",
            )

    def fill(self, values: tuple[bytes | None, ...]) -> str:
        """Insert the columns' values. Raises ValueError when one is NULL, or the topic breaks Kafka's rule."""
        topic = self.join(values, "topic")
        if topic in _RESERVED or not _TOPIC_RULE.fullmatch(topic):
            raise ValueError(f"{topic[:300]!r} is no topic: Kafka allows [A-Za-z0-9._-], 1 to 249 of them")
        return topic


class SourceTemplate(Template):
    """`--ce-source`: a URI reference with the names of columns in braces. Values are escaped."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for text that cannot be a URI reference."""
        super().__init__(template)
        if "" in self.columns or not _SOURCE.fullmatch("".join(self.literals) + "x" * len(self.columns)):
            raise ConfigurationError(
                f"--ce-source {template!r} cannot be the source of events: it is no URI reference",
                code="ce-source",
                cure="write one such as /shop/orders, https://shop.example/orders or /shop/{aggregatetype}",
            )

    def fill(self, values: tuple[bytes | None, ...]) -> bytes:
        """Insert the columns' values. Raises ValueError when one is NULL."""
        return self.join(values, "source", lambda value: quote(value, safe=_SAFE)).encode()


class ContentType(NamedTuple):
    """The content type of a payload. `is_json`: whether a JSON envelope embeds the payload unchanged."""

    text: bytes
    is_json: bool


class ContentTypeTemplate(Template):
    """`--content-type`: a media type, which may have names of columns in braces."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for text that cannot be a media type."""
        super().__init__(template)
        self._known: dict[tuple[bytes | None, ...], ContentType] = {}
        whole = "".join(self.literals)
        if "" in self.columns or set("{}") & set(whole) or not (self.columns or _MEDIA_TYPE.fullmatch(whole)):
            raise ConfigurationError(
                f"--content-type {template!r} is no media type of a payload",
                code="content-type",
                cure="write one such as application/json or text/plain; charset=utf-8, or name its column: {content_type}",
            )

    def fill(self, values: tuple[bytes | None, ...]) -> ContentType:
        """Insert the columns' values. Raises ValueError when one is NULL, or the result is not a media type."""
        return self._known.get(values) or self._new(values)

    def _new(self, values: tuple[bytes | None, ...]) -> ContentType:
        text = self.join(values, "content-type")
        if not _MEDIA_TYPE.fullmatch(text):
            raise ValueError(f"{text[:200]!r} is no media type of a payload")
        found = ContentType(text.encode(), _JSON.fullmatch(text) is not None)
        if len(text) <= CONTENT_TYPE_CACHE_LENGTH:
            if len(self._known) >= CONTENT_TYPE_CACHE_ENTRIES:
                self._known.clear()
            self._known[values] = found
        return found
