"""The status page at `/`: one HTML file, and the JSON that it displays.

In: page.html beside this module; counters, settings, the history, the last warnings. Out: bytes, a policy, a dictionary.
Never: an external asset, a build step, a style or script that is not the file's own: the policy names their hashes.

Content Security Policy Level 3 (hashes of inline scripts and styles).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
from dataclasses import asdict
from importlib import resources
from typing import Final

from cdc_outbox import DOCUMENTATION, __version__
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.observe.health import judge, status
from cdc_outbox.observe.history import History, published
from cdc_outbox.observe.mask import mask
from cdc_outbox.observe.recent import RecentWarnings

HTML: Final = resources.files("cdc_outbox.observe").joinpath("page.html").read_bytes()


def content_security_policy(html: bytes) -> str:
    """The policy: a browser may run the page's own script, apply its own style, and query its own server; nothing else."""
    script, style = (_hashes(html, tag) for tag in (b"script", b"style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: bytes, tag: bytes) -> str:
    inner = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in inner)


POLICY: Final = content_security_policy(HTML)


_ENDED_BY: Final = {
    "kafka.": ("kafka-",),
    "backpressure": ("kafka-",),
    "delivery.waiting": ("kafka-",),
    "producer.": ("kafka-",),
    "waiting": ("not-started", "postgres-"),
    "postgres.disconnected": ("not-started", "postgres-"),
    "slot.endangered": ("slot-",),
}
"""Warnings that last, by the beginning of their event: they are over when no reason of health begins so."""


def document(
    counters: Counters, settings: Settings, history: History, warnings: RecentWarnings, monotonic: float, now: float
) -> dict[str, object]:
    """The data of the page. Members may change: unlike the status document, they are for the page alone."""
    shown = status(counters, settings, now, monotonic)
    codes = [reason.code for reason in shown.reasons]
    return {
        "now": now,
        "version": __version__,
        "docs": DOCUMENTATION,
        "headline": judge(shown).headline,
        "place": {
            "database": counters.database,
            "brokers": mask(settings.brokers),
            "host": f"{socket.gethostname()}, pid {os.getpid()}",
            "started": history.started_at,
            "state_since": history.state_since,
        },
        "postgres_connected": counters.postgres_connected,
        "published": published(counters),
        "status": shown.members(),
        "history": history.columns(),
        "topics": history.topics.rows(),
        "warnings": [{**asdict(each), "over": _over(each.event, codes)} for each in warnings.newest_first()],
    }


def _over(event: str, codes: list[str]) -> bool:
    """Whether the cause of a warning has passed; False for a cause that does not last, such as a poison event."""
    for beginning, reasons in _ENDED_BY.items():
        if event.startswith(beginning):
            return not any(code.startswith(reasons) for code in codes)
    return False
