"""A real Chromium without a window, spoken to over a pipe: the Chrome DevTools Protocol needs nothing else.

`CDC_OUTBOX_CHROMIUM` names the program; without it, the first of the usual names on the PATH.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.plugins.absence import absent
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")

ANSWER_SECONDS: Final = 60.0
"""For one command; the first one waits for the browser to start."""

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # it cannot be had by root, nor in most containers; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One browser with one page. `problems`: what the page was refused, or failed with."""

    def __init__(self, program: str, profile: Path) -> None:
        our_read, their_write = os.pipe()
        their_read, self._write = os.pipe()
        self._read = our_read
        # the protocol wants the descriptors 3 and 4
        connected = ["bash", "-c", f'exec "$0" "$@" 3<&{their_read} 4>&{their_write}']
        self._process = subprocess.Popen(
            [*connected, program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_read, their_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.problems: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Its result. AssertionError when it fails, or is late."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, url: str) -> None:
        """Go there; what failed before is forgotten."""
        self.problems.clear()
        self.command("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str, what: str) -> None:
        """Wait until the expression is true."""
        eventually(lambda: self.run(f"Boolean({script})"), what)

    def prefer(self, scheme: str) -> None:
        """`dark` or `light`."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, width: int, height: int) -> bytes:
        """A PNG of the page in a window of that size."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(AssertionError, OSError):
            self._session = None
            self.command("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, f"the browser has ended with {self._process.poll()}"
            self._pending += chunk
        message, _, self._pending = self._pending.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def _note(self, event: dict[str, Any]) -> None:
        """A refusal of the policy and a failed request are entries of the log, an error in a script is an exception."""
        if event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] in {"warning", "error"}:
                self.problems.append(f"{entry['source']}: {entry['text']}")
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["params"]["exceptionDetails"]))


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = os.environ.get("CDC_OUTBOX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        absent("chromium (Debian's package of that name) is not installed")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(_browser: Browser) -> Browser:
    """The session's browser, on an empty page."""
    _browser.open("about:blank")
    _browser.prefer("light")
    return _browser
