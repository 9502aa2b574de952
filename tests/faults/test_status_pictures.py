"""The status page of a real relay in six situations, as pictures in docs/images and compared by their text.

A slot in danger has set figures, in tests/integration/test_status_pictures.py: a real one would be lost before a look at it.
`CDC_OUTBOX_PICTURES=write` with this test writes pictures and texts anew, after a longer run; look at them before a commit.
Names and addresses of this machine are replaced on the page; figures and times are compared as such, not by their value.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import QUICK_RECONNECT
from tests.plugins.outbox import Outbox, insert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.browser import Browser
    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
WIDTH: Final = 1100

WRITE: Final = os.environ.get("CDC_OUTBOX_PICTURES") == "write"

LOAD_SECONDS: Final = 45.0 if WRITE else 6.0
"""Three samples of the page's history, or enough of them for a chart."""

TOPICS: Final = {"order": "outbox.event.order", "payment": "outbox.event.payment"}

FIGURE: Final = re.compile(
    r"(?:[A-Z][a-z]{2} \d+, )?[0-9A-F]+(?:[/:.,-][0-9A-F]+)*(?: ?(?:bytes|KiB|MiB|GiB|ms|s|min|h|AM|PM)\b)?"
)
"""A number, a time, an LSN, with its unit."""


def figures_hidden(text: str) -> list[str]:
    """The lines above the last warnings, with # for each figure. Some figures may be unknown at the moment of the look."""
    shown = text.partition("\nLast warnings\n")[0]
    shown = re.sub(r"\bnot known\b|\d[\d.]* m?s · [\d.]+ m?s", "#", shown)
    shown = re.sub(
        r"(Kafka does not answer: |Last error of Kafka's client\n)[^;\n]+", r"\1…", shown
    )  # librdkafka's words vary
    lines = FIGURE.sub("#", shown).replace("# events/s", "#").replace("# events", "# event").splitlines()
    return [line for line in lines if line != "# ago"]  # the beginning of a chart, from its second sample on


class Pictures:
    """Takes pictures of one relay's page in a browser."""

    def __init__(self, browser: Browser, replaced: dict[str, str]) -> None:
        self._browser = browser
        self._replaced = replaced
        browser.command("Emulation.setTimezoneOverride", timezoneId="UTC")

    def take(self, relay: Relay, name: str, until: str) -> None:
        """Wait until the page shows these words, and compare its text with the one that is kept."""
        self._browser.open(f"{relay.http_url}/")
        self._browser.until(
            f"document.querySelector('#facts dd') && document.body.innerText.includes({json.dumps(until)})",
            f"the page shows {until!r}",
        )
        self._browser.run(self._replacement())
        text = self._text()
        if WRITE:
            self._write(name, text)
        kept = (IMAGES / f"status-{name}.txt").read_text(encoding="utf-8")
        assert figures_hidden(text) == figures_hidden(kept)
        assert (IMAGES / f"status-{name}.png").read_bytes().startswith(b"\x89PNG")

    def _text(self) -> str:
        shown = str(self._browser.run("document.body.innerText"))
        lines = [line.strip() for line in shown.splitlines() if line.strip()]
        return "\n".join([str(self._browser.run("document.title")), *lines, ""])

    def _write(self, name: str, text: str) -> None:
        (IMAGES / f"status-{name}.txt").write_text(text, encoding="utf-8")
        self._browser.picture(WIDTH, 600)
        height = int(self._browser.run("document.documentElement.scrollHeight"))
        self._browser.run(self._replacement())
        (IMAGES / f"status-{name}.png").write_bytes(self._browser.picture(WIDTH, height))

    def _replacement(self) -> str:
        """A script that replaces the names of this machine in every text of the page."""
        return f"""(() => {{
            const names = Object.entries({json.dumps(self._replaced)});
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walker.nextNode())
                for (const [ours, shown] of names) walker.currentNode.data = walker.currentNode.data.replaceAll(ours, shown);
        }})()"""


@contextlib.contextmanager
def load(outbox: Outbox) -> Iterator[None]:
    """Commit events, a few hundred a second."""
    ends = threading.Event()

    def write() -> None:
        with outbox.database.connect(autocommit=False) as connection:
            number = 0
            while not ends.is_set():
                for kind in ("order", "order", "order", "payment"):
                    number += 1
                    insert(connection, "outbox", {"aggregatetype": kind, "aggregateid": str(number % 100)})
                connection.commit()
                ends.wait(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def ok(relay: Relay, page: Browser) -> None:
    """Wait until the page shows a relay that is well."""
    page.open(f"{relay.http_url}/")
    page.until("document.querySelector('#state.good')", "the relay is well")


def test_the_page_of_a_real_relay_has_the_text_of_its_picture(
    browser: Browser,
    own_postgres: Callable[..., PostgresServer],
    fragile_kafka: KafkaCluster,
    relay: Callable[..., Relay],
) -> None:
    postgres = own_postgres(settings={"max_slot_wal_keep_size": "50GB"})
    outbox = Outbox(postgres.create_database(), fragile_kafka, relay)
    for topic in TOPICS.values():
        fragile_kafka.create_topic(topic)
    outbox.create()
    outbox.create_slot()
    options = ("--topic", "outbox.event.{aggregatetype}", "--slot", "cdc_outbox", *QUICK_RECONNECT)
    first = outbox.streaming(*options, http=True)
    proxy, embedded = fragile_kafka.proxy, postgres.embedded
    assert proxy is not None
    assert embedded is not None
    second = outbox.relay(*options, http=True)
    pictures = Pictures(
        browser,
        {
            f"{outbox.database.name} at 127.0.0.1:{embedded.port}": "shop at db.shop:5432",
            fragile_kafka.brokers: "kafka-0.shop:9092",
            f"{socket.gethostname()}, pid {first.pid}": "cdc-outbox-6c9f7d5b8-x2x7q, pid 1",
            f"{socket.gethostname()}, pid {second.pid}": "cdc-outbox-6c9f7d5b8-m4kzd, pid 1",
            f'"127.0.0.1", port {embedded.port}': '"db.shop", port 5432',
            "127.0.0.1": "10.0.3.7",
            f":{fragile_kafka.brokers.partition(':')[2]}": ":9092",
        },
    )

    pictures.take(second, "standby", "Another relay streams from the slot")
    second.terminate()
    assert second.wait() == 0

    with load(outbox):
        time.sleep(LOAD_SECONDS)  # the page shows a history, and nothing else can be waited for
        pictures.take(first, "under-load", "Rows become records")
    outbox.confirm()
    time.sleep(LOAD_SECONDS)
    pictures.take(first, "at-rest", "Rows become records")

    proxy.freeze()
    outbox.add()
    pictures.take(first, "kafka-frozen", "the last error was")
    proxy.thaw()
    outbox.confirm()
    ok(first, browser)

    proxy.refuse()
    outbox.add()
    pictures.take(first, "kafka-down", "it has confirmed nothing for")
    proxy.accept()
    outbox.confirm()
    ok(first, browser)

    embedded.stop("fast", timeout=60)
    pictures.take(first, "postgresql-down", "refused")
    embedded.start()
    ok(first, browser)
