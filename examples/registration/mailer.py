"""Sends the welcome mail. Environment: SMTP (host:port), and what `consumer` needs.

A mail server is not part of the transaction. The claim is committed only after the server has taken the mail, so no crash
can lose a mail; one crash, between the two, sends it again. Both mails have the same Message-ID then, made of the event's
id, by which many mail systems drop the second.
"""

from __future__ import annotations

import logging
import os
import smtplib
from email.message import EmailMessage

from examples.registration.consumer import Connection, Event, consume

SMTP_SECONDS = 10.0
"""Seconds without an answer, after which a mail server counts as failed."""

logger = logging.getLogger(__name__)


def welcome(event: Event) -> EmailMessage:
    """The mail to a registered user."""
    mail = EmailMessage()
    mail["Message-ID"] = f"<{event.id}@registration.example>"
    mail["From"] = "hello@registration.example"
    mail["To"] = event.data["email"]
    mail["Subject"] = f"Welcome, {event.data['name']}!"
    mail.set_content("Good to have you here.")
    return mail


def user_registered(_: Connection, event: Event) -> None:
    """Hand the mail to the server. Raises what smtplib raises when the server does not take it now.

    A permanent refusal (550, no such mailbox) is logged and skipped: endless attempts would block all later messages.
    """
    host, port = os.environ["SMTP"].split(":")
    try:
        with smtplib.SMTP(host, int(port), timeout=SMTP_SECONDS) as server:
            server.send_message(welcome(event))
    except smtplib.SMTPException as error:
        if not refused_for_good(error):
            raise
        logger.warning("%s: no mail to %s: %s", event.id, event.data["email"], error)


def refused_for_good(error: smtplib.SMTPException) -> bool:
    """Whether the answer was a 5xx: permanent, by RFC 5321, 4.2.1."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    return isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500


if __name__ == "__main__":
    consume("mailer", {"UserRegistered": user_registered}, again_on=(smtplib.SMTPException, OSError))
