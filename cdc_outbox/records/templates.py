"""Text with the names of columns in braces: the topic, the source and the content type of an event. Pure.

In: a template of the settings; the columns' values of one event. Out: the text that the record gets.
Never: a text that Kafka, a URI reference or a media type does not allow, or one in place of a NULL.

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
"""Media types whose data the JSON event format embeds as it is (3.1)."""

_MEDIA_TYPE: Final = re.compile(
    r"(?!application/cloudevents)[\w!#$&^.+-]+/[\w!#$&^.+-]+(?: *;[ -~]*)?", re.ASCII | re.IGNORECASE
)
"""RFC 2046, names as in RFC 6838. That of a CloudEvent would have receivers take the payload for an envelope."""

CONTENT_TYPE_CACHE_ENTRIES: Final = 1_000
"""Content types remembered by their columns: an application has a few. Beyond it the cache starts again."""

CONTENT_TYPE_CACHE_LENGTH: Final = 200
"""Characters of the longest one that is remembered: its parameters may be of any length."""

_SOURCE: Final = re.compile(r"[^\s\x00-\x1f\x7f{}]+")

_SAFE: Final = "/:@!$&'()*+,;="
"""What a column's value may bring into a URI reference unescaped, beside letters, digits and -._~ (RFC 3986, pchar and /)."""


class Template:
    """Text with the names of columns in braces."""

    def __init__(self, template: str) -> None:
        pieces = PLACEHOLDER.split(template)
        self.literals = tuple(pieces[0::2])
        self.columns = tuple(pieces[1::2])

    def join(self, values: tuple[bytes | None, ...], purpose: str, show: Callable[[bytes], str] = bytes.decode) -> str:
        """Put the columns' values in, each as `show` has it. Raises ValueError when one is NULL, which names `what`."""
        text = self.literals[0]
        for name, value, literal in zip(self.columns, values, self.literals[1:], strict=True):
            if value is None:
                raise ValueError(f"column {name}, which names the {purpose}, is NULL")
            text += show(value) + literal
        return text


class TopicTemplate(Template):
    """`outbox.event.{aggregatetype}`."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for a brace without its partner, or text that no topic can hold."""
        super().__init__(template)
        shortest = "".join(self.literals) + ("x" if self.columns else "")
        if "" in self.columns or shortest in _RESERVED or not _TOPIC_RULE.fullmatch(shortest):
            raise ConfigurationError(
                f"--topic {template!r} cannot make a topic: Kafka allows [A-Za-z0-9._-], 1 to 249 of them",
                code="topic-template",
                cure="write a template such as outbox.event.{aggregatetype}",
            )

    def fill(self, values: tuple[bytes | None, ...]) -> str:
        """Put the columns' values in. Raises ValueError when one is NULL, or the topic breaks Kafka's rule."""
        topic = self.join(values, "topic")
        if topic in _RESERVED or not _TOPIC_RULE.fullmatch(topic):
            raise ValueError(f"{topic[:300]!r} is no topic: Kafka allows [A-Za-z0-9._-], 1 to 249 of them")
        return topic


class SourceTemplate(Template):
    """`--ce-source`: a URI reference with the names of columns in braces. Values are escaped."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for what cannot be a URI reference."""
        super().__init__(template)
        if "" in self.columns or not _SOURCE.fullmatch("".join(self.literals) + "x" * len(self.columns)):
            raise ConfigurationError(
                f"--ce-source {template!r} cannot be the source of events: it is no URI reference",
                code="ce-source",
                cure="write one such as /shop/orders, https://shop.example/orders or /shop/{aggregatetype}",
            )

    def fill(self, values: tuple[bytes | None, ...]) -> bytes:
        """Put the columns' values in. Raises ValueError when one is NULL."""
        return self.join(values, "source", lambda value: quote(value, safe=_SAFE)).encode()


class ContentType(NamedTuple):
    """Of a payload. `is_json`: whether a JSON envelope embeds it as it is."""

    text: bytes
    is_json: bool


class ContentTypeTemplate(Template):
    """`--content-type`: a media type, in which the names of columns may stand in braces."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for what cannot be a media type."""
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
        """Put the columns' values in. Raises ValueError when one is NULL, or the whole is no media type."""
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
