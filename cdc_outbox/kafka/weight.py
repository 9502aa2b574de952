"""Memory of a record in flight, and the check that its text can be handed to librdkafka. Pure.

In: a `KafkaRecord`. Out: bytes; PoisonEvent for text that must not reach librdkafka.
Never: an estimate that is too low. librdkafka's own bound counts values only, not keys and headers.
"""

from __future__ import annotations

from typing import Final

from cdc_outbox.errors import PoisonEvent
from cdc_outbox.kafka.errors import shown_key
from cdc_outbox.records.router import LONGEST_SMALL_NAME, SMALL_TEXT, KafkaRecord

RECORD_BYTES: Final = 512
"""A record without key, value and headers, in librdkafka and as a delivery report: measured, 520 bytes of resident memory."""

HEADER_BYTES: Final = 64
"""A header without its name and value: measured, 60 to 70 bytes of resident memory."""

USUAL_BYTES: Final = SMALL_TEXT + 2 * HEADER_BYTES
"""512: key, id, type and three or four more headers, enough for nearly all events. Only larger ones are measured."""

USUAL_RECORD: Final = RECORD_BYTES + USUAL_BYTES
"""A record without its value, if it is a usual one."""

KNOWN_NAMES: Final = 1000
"""Most checked header names that are remembered: a JSON object may bring any number of them."""


def extra_bytes(record: KafkaRecord) -> int:
    """Bytes of a record besides `RECORD_BYTES` and its value.

    Raises PoisonEvent for text that UTF-8 cannot encode, on which librdkafka's binding crashes the process, and for a NUL
    character in a header's name, which would end the name.
    """
    size = len(record.topic) + (0 if record.key is None else len(record.key))
    try:
        return size + sum(
            HEADER_BYTES + _name_bytes(name) + _content_bytes(content) for name, content in record.headers
        )
    except (UnicodeError, ValueError, TypeError, AttributeError) as error:
        raise unfit(record, error, reason="bad-headers") from error


def _name_bytes(name: str) -> int:
    if "\0" in name:
        raise ValueError("a header's name holds a NUL character")
    return len(name.encode())


def _content_bytes(content: str | bytes | None) -> int:
    return 0 if content is None else len(content.encode() if isinstance(content, str) else content)


class HeaderNames:
    """Short header names that librdkafka accepts, so that records with only these need no measurement."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: set[str] = set()

    def are_usual(self, record: KafkaRecord) -> bool:
        """Whether the record has known header names, and no more than the usual key and headers."""
        usual, known = USUAL_BYTES if record.key is None else USUAL_BYTES - len(record.key), self.known
        for name, content in record.headers:
            if name not in known or content is None:
                return False
            usual -= HEADER_BYTES + len(content)
        return usual >= 0

    def learn(self, record: KafkaRecord) -> None:
        """Remember the names of a record that was measured."""
        if len(self.known) + len(record.headers) > KNOWN_NAMES:
            self.known.clear()
        self.known.update(name for name, _ in record.headers[:KNOWN_NAMES] if len(name) <= LONGEST_SMALL_NAME)


def unfit(record: KafkaRecord, error: Exception, reason: str = "bad-record") -> PoisonEvent:
    """The error for a record that cannot be handed to librdkafka."""
    return PoisonEvent(
        f"the event cannot be made a Kafka record: {error}",
        cure="correct what the application writes; this event itself has to be skipped or dead-lettered (--on-poison)",
        reason=reason,
        topic=record.topic.encode(errors="replace").decode()[:300],
        key=shown_key(record.key),
    )
