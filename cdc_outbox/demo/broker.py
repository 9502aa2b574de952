"""A Kafka that needs nothing installed: librdkafka's mock cluster, in a process of its own, for clients over TCP.

In: the confluent-kafka package that the relay needs anyway. Out: a bootstrap address on 127.0.0.1.
Never: a promise of more than the demo needs. It answers producers (idempotent ones too) and consumers, and makes a topic of
four partitions when one is first named. Everything is in memory; a partition forgets its oldest records beyond 5 MB. It has
no TLS, SASL or ACLs, no admin requests, and it does not hide the records of an aborted transaction.

Any librdkafka client becomes such a cluster by the property `test.mock.num.brokers`; its metadata name the address. The child
runs until its stdin ends, which also happens at any end of its parent.
"""

from __future__ import annotations

import logging
import select
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Producer

from cdc_outbox.errors import ConfigurationError

START_SECONDS: Final = 20.0
"""The start takes a third of a second; after this time it has failed."""

STOP_SECONDS: Final = 5.0
"""From end of stdin to SIGKILL."""

_SILENT: Final = logging.getLogger("cdc_outbox.demo.broker.silent")
_SILENT.disabled = True
"""For clients of a server that stops and starts: closed connections are not logged."""


class EmbeddedBroker:
    """A broker that runs inside a `with` block."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.brokers = ""
        """Bootstrap address, once started."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers. Raises ConfigurationError with its last text."""
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C on the terminal must not reach it
        )
        assert process.stdout is not None
        poller = select.poll()
        poller.register(process.stdout, select.POLLIN)
        self.brokers = process.stdout.readline().strip() if poller.poll(START_SECONDS * 1000) else ""
        if not self.brokers:
            process.kill()
            _, text = process.communicate()
            raise ConfigurationError(
                f"the embedded Kafka did not start: {text.strip() or 'no output'}",
                code="demo",
                cure="pip install --upgrade confluent-kafka",
            )

    def close(self) -> None:
        """End the process. Has no effect if it has ended."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        self._process = None


def serve() -> None:
    """Run the cluster: print its address on stdout, and end with stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = Producer({"test.mock.num.brokers": "1", "log_level": 0}, logger=_SILENT)
    deadline = time.monotonic() + START_SECONDS
    while not (brokers := cluster.list_topics(timeout=START_SECONDS).brokers) and time.monotonic() < deadline:
        time.sleep(0.01)
    sys.stdout.write(",".join(f"{broker.host}:{broker.port}" for broker in brokers.values()) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve()
