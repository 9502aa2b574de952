"""A mail server for the example: accepts and keeps mails, and refuses them on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Self, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from cdc_outbox.demo.ports import free_port


class Postbox:
    """An SMTP server on 127.0.0.1, inside a `with` block."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        """Those that were taken."""
        self.refused = 0
        """How many were not."""
        self.before_answer: Callable[[], object] = lambda: None
        """Called when a mail was taken, and its sender does not know it yet."""
        self.unknown: set[str] = set()
        """Addresses that there are not: 550."""
        self._refusals: Counter[str] = Counter()
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port())

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self._controller.hostname}:{self._controller.port}"

    def refuse(self, recipient: str, times: int) -> None:
        """Refuse this many further mails to this address: 451, try again later."""
        self._refusals[recipient] = times

    def sent_to(self, recipient: str) -> list[EmailMessage]:
        """The mails to this address."""
        return [mail for mail in list(self.mails) if mail["To"] == recipient]

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  (its name)
        """Called by aiosmtpd with each mail."""
        recipient = envelope.rcpt_tos[0]
        if recipient in self.unknown:
            return "550 no such mailbox"
        if self._refusals[recipient] > 0:
            self._refusals[recipient] -= 1
            self.refused += 1
            return "451 mailbox is busy, try again later"
        self.mails.append(message_from_bytes(cast("bytes", envelope.content), policy=policy.default))
        self.before_answer()
        return "250 OK"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()
