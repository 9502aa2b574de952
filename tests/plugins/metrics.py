"""What a relay's /metrics says, by name."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay


def metrics(relay: Relay) -> dict[str, float]:
    """Samples now, by `name` or `name{label="value"}`, without the prefix that all names have."""
    with urllib.request.urlopen(f"{relay.http_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("cdc_outbox_"): float(value) for name, _, value in samples}
