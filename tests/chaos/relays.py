"""Relays as a supervisor would run them: started, killed, stopped, frozen, and started again when they end by themselves.

In: what to start; acts. Out: a relay that runs unless an act wants otherwise, and a note of everything that no act explains.
Never: two acts on one relay at a time (its mapping sees to that).
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.plugins.daemon import Relay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.journal import Journal
    from tests.chaos.stage import Scene

SHUTDOWN_SECONDS: Final = 4.0
"""--shutdown-timeout: seconds instead of 25, so that a stop with Kafka down fits into a seed."""

LATE_SECONDS: Final = 3.0
"""Beyond it, on a busy machine: what the relay grants itself (1 s), and the end of a Python process."""

CLEAN: Final = (0, 75)
"""How a relay that was told to stop may end: all confirmed, or in time but with events that will be sent again."""

IMPATIENT: Final = {"request.timeout.ms": "1000", "socket.timeout.ms": "2000"}
"""Milliseconds. A request without an answer is sent again, though the broker may have taken it: only idempotence keeps it once.
The second also lets a connection go that is half open, which takes a minute by default."""


AT_WORK: Final = ("streaming", "standby")
NOT_AT_WORK: Final = ("waiting", "postgres.disconnected")
"""Log events that tell where a relay stands; the last one counts."""


@dataclass
class Post:
    """One place for a relay."""

    number: int
    relay: Relay | None = None
    acting: threading.Lock = field(default_factory=threading.Lock)


class Relays:
    """The relays of one seed."""

    def __init__(self, scene: Scene, journal: Journal, folder: Path, *, count: int, impatient: bool) -> None:
        self._journal = journal
        self._folder = folder
        self._posts = [Post(number) for number in range(count)]
        self._arguments = [
            *("--dsn", scene.dsn, "--brokers", scene.cluster.brokers, "--slot", scene.slot),
            *("--topic", scene.prefix + "{aggregatetype}", "--shutdown-timeout", f"{SHUTDOWN_SECONDS:g}s"),
        ]
        if impatient:
            self._arguments += [word for name, value in IMPATIENT.items() for word in ("-X", f"{name}={value}")]
        self.started: list[Relay] = []
        """All that were ever started."""
        self.exit_codes: list[int] = []
        """Of those that were told to stop."""

    # -- acts

    def start(self, number: int) -> None:
        """Start one, unless it runs."""
        post = self._posts[number]
        with post.acting:
            if post.relay is None:
                post.relay = Relay(self._arguments, env={}, cwd=self._folder, http=False)
                self.started.append(post.relay)

    def kill(self, number: int) -> None:
        """SIGKILL."""
        if relay := self._take(number):
            relay.kill()

    def term(self, number: int) -> None:
        """SIGTERM, and wait for the end: in time, with a code that says what was left."""
        relay = self._take(number)
        if relay is None:
            return
        began = time.monotonic()
        relay.terminate()
        try:
            code = relay.wait(SHUTDOWN_SECONDS + LATE_SECONDS)
        except AssertionError:
            self._journal.finding(
                f"relay {number + 1} did not stop within {SHUTDOWN_SECONDS + LATE_SECONDS:g} s of SIGTERM"
            )
            relay.kill()
            return
        self._journal.note(f"relay {number + 1} stopped with {code} after {time.monotonic() - began:.1f} s")
        if code == -signal.SIGTERM and not relay.stderr_text:
            return  # it had not begun: Python was still loading it, and nothing was read
        self.exit_codes.append(code)
        if code not in CLEAN:
            self._journal.finding(f"relay {number + 1} was told to stop, and ended with {code}: {_last_words(relay)}")

    def freeze(self, number: int) -> None:
        """SIGSTOP."""
        relay = self._posts[number].relay
        if relay is not None and relay.running:
            relay.stop()

    def thaw(self, number: int) -> None:
        """SIGCONT."""
        if relay := self._posts[number].relay:
            relay.cont()

    # -- around them

    def supervise(self) -> None:
        """Note whatever ended by itself, and start it again."""
        for post in self._posts:
            with post.acting:
                if post.relay is None or post.relay.running:
                    continue
                ended, post.relay = post.relay, None
            code = ended.wait()
            self._journal.finding(f"relay {post.number + 1} ended by itself with {code}: {_last_words(ended)}")
            self.start(post.number)

    def streaming(self) -> bool:
        """Whether one of them has begun to stream."""
        return any(relay.log_lines("streaming") for relay in self.started)

    def at_work(self) -> bool:
        """Whether each one streams or stands by, and none is waiting for a server."""
        return all(post.relay is not None and _last_state(post.relay) in AT_WORK for post in self._posts)

    def heal(self) -> None:
        """All go on; those that are gone are started."""
        for post in self._posts:
            self.thaw(post.number)
            self.start(post.number)

    def stop(self) -> None:
        """SIGTERM for all, one after the other. Each is `at_work`, and everything delivered: so each ends with 0."""
        before = len(self.exit_codes)
        for post in self._posts:
            self.term(post.number)
        if any(self.exit_codes[before:]):
            self._journal.finding(
                f"stopped with everything delivered, and the exit codes are {self.exit_codes[before:]}"
            )

    def close(self) -> None:
        """End all, however; keep what they said, one file for each start."""
        for number, relay in enumerate(self.started, start=1):
            relay.close()
            (self._folder / f"relay-start-{number}.log").write_text(relay.stderr_text, encoding="utf-8")

    def planes(self) -> list[str]:
        """The plane that each relay chose at its start."""
        return [line["plane"] for relay in self.started for line in relay.log_lines("plane.chosen")]

    def tracebacks(self) -> int:
        """How many of them printed one."""
        return sum("Traceback (most recent call last)" in relay.stderr_text for relay in self.started)

    def _take(self, number: int) -> Relay | None:
        """The relay of a post, which nobody expects to run from now on."""
        post = self._posts[number]
        with post.acting:
            relay, post.relay = post.relay, None
        return relay


def _last_state(relay: Relay) -> str:
    return next((line["event"] for line in reversed(relay.logs) if line.get("event") in (*AT_WORK, *NOT_AT_WORK)), "")


def _last_words(relay: Relay) -> str:
    last = [line for line in relay.stderr_text.splitlines() if line.strip()][-1:]
    return last[0][:500] if last else "no last words"
