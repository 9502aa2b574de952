"""librdkafka's own log lines, at debug: what they report is an event of ours, with a cure, once per cause.

In: records of the logger that confluent_kafka is given. Out: the same, at debug, but for warnings of its configuration.
Never: a line dropped that --log-level debug asks for.
"""

from __future__ import annotations

import logging
from typing import Final

CONFIGURATION_WARNING: Final = "CONFWARN"
"""The facility, a line's first word, of what no event of ours reports: a property without effect, or deprecated."""

OURS: Final = "enable.gapless.guarantee"
"""A property that the relay sets itself, and librdkafka calls experimental each time."""


class _AtDebug(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.split(" ", 1)[0] == CONFIGURATION_WARNING and OURS not in text:
            return True
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return logging.getLogger().isEnabledFor(logging.DEBUG)


LIBRARY_LOG: Final = logging.getLogger("confluent_kafka")
LIBRARY_LOG.addFilter(_AtDebug())
