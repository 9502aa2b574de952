"""librdkafka's own log lines, at level debug: the relay logs what they report itself, once per cause and with a cure.

In: log records of the logger passed to confluent_kafka. Out: the same at level debug, except warnings about its configuration.
Never: a line dropped with --log-level debug.
"""

from __future__ import annotations

import logging
from typing import Final

CONFIGURATION_WARNING: Final = "CONFWARN"
"""Facility (a line's first word) of warnings that the relay does not log itself: properties without effect or deprecated."""

OURS: Final = "enable.gapless.guarantee"
"""A property that the relay sets, and that librdkafka reports as experimental at each start."""


class _AtDebug(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.split(" ", 1)[0] == CONFIGURATION_WARNING and OURS not in text:
            return True
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return logging.getLogger().isEnabledFor(logging.DEBUG)


LIBRARY_LOG: Final = logging.getLogger("confluent_kafka")
LIBRARY_LOG.addFilter(_AtDebug())
