"""Every error that cdc-outbox raises on purpose, split by what the operator has to do.

    CdcOutboxError
    ├── ConfigurationError   78  change a setting, the database or the topic; a restart does not help
    │   ├── CannotConnect    78  a setting with which no connection is possible: TLS, the database's name
    │   └── StreamGap        78  rows that the slot will not send any more: only the table has them
    ├── AccessRefused        77  a wrong password, or a privilege that is missing
    ├── PoisonEvent          65  one event can never be delivered; the policy is to stop
    ├── Unreachable          69  a server does not answer; waiting helps
    │   ├── ConnectionLost   69  it did answer once; connect again
    │   ├── CatalogFinding   69  a finding ended the session: the next preflight decides
    │   └── NotAccepting     69  it takes no connections: it starts, recovers or shuts down (57P03)
    ├── SlotBusy             75  another process streams from the slot
    ├── Undelivered          75  stopped in time, but with events that will be sent again
    └── ProtocolError        70  a message that violates the protocol: a bug, or an unsupported server version

An error has what happened, where (`slot`, `lsn`, `topic`, `key`, …), and what to do next (`cure`). It never contains a
secret or a payload. Exit codes are sysexits(3)'s where it has one.
"""

from __future__ import annotations

from typing import ClassVar


def join_cures(*cures: str) -> str:
    """One cure of several, in this order. A part that an earlier one contains is left out."""
    joined = ""
    for cure in cures:
        if cure not in joined:
            joined += f"{'' if not joined else ' ' if joined.endswith(('.', ';')) else '. '}{cure}"
    return joined


class CdcOutboxError(Exception):
    """Base class. `message`: one sentence; `cure`: what to do next; `where`: the place.

    `code`: a stable slug for logs, scripts and docs/troubleshooting.md; by default the class's.
    """

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "bug"

    def __init__(self, message: str, *, code: str = "", cure: str = "", **where: str | int | None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or str(where.get("reason") or self.default_code)
        self.cure = cure
        self.where = {name: value for name, value in where.items() if value is not None}

    def __str__(self) -> str:
        place = ", ".join(f"{name} {value}" for name, value in self.where.items())
        return f"{self.message} ({place})" if place else self.message


class ConfigurationError(CdcOutboxError):
    """A setting, the database, the slot, the publication or a topic must be changed. A restart does not help."""

    exit_code = 78
    default_code = "configuration"


class CannotConnect(ConfigurationError):
    """The settings allow no connection: a certificate that does not verify, a secret file that is not readable.

    Final at start. Later it may be temporary: certificates are renewed, and a failover ends.
    """

    default_code = "cannot-connect"


class StreamGap(ConfigurationError):
    """Rows were committed that the slot will not send: it is lost, dropped or not the same, or they were not published.

    The rows that were not delivered can only be read from the table: the cure names `slot recover`.
    """

    default_code = "stream-gap"


class AccessRefused(CdcOutboxError):
    """A server refuses access: a wrong password, pg_hba, SASL, or a missing privilege."""

    exit_code = 77
    default_code = "access-refused"


class PoisonEvent(CdcOutboxError):
    """An event that can never be delivered as it is."""

    exit_code = 65
    default_code = "poison"


class Unreachable(CdcOutboxError):
    """A server does not answer, or not yet. A retry may help."""

    exit_code = 69
    default_code = "unreachable"


class ConnectionLost(Unreachable):
    """An open connection has ended. Connect again; unconfirmed events are sent again."""

    default_code = "connection-lost"


class NotAccepting(Unreachable):
    """A server accepts no new connections (57P03): it starts, recovers, or shuts down; while a stream is open, the last."""

    default_code = "postgres-not-ready"


class CatalogFinding(Unreachable):
    """A finding about the catalog, which ended the session. The preflight of the next one decides."""

    @classmethod
    def of(cls, found: CdcOutboxError, **where: str | int | None) -> CatalogFinding:
        """The finding, with the message, code, cure and place of the error that was found; `where`: more of its place."""
        return cls(found.message, code=found.code, cure=found.cure, **{**found.where, **where})


class SlotBusy(CdcOutboxError):
    """Another process streams from the slot."""

    exit_code = 75
    default_code = "slot-busy"


class Undelivered(CdcOutboxError):
    """Stopped, with events that were read but not delivered. They are sent again by the next start."""

    exit_code = 75
    default_code = "undelivered"


class ProtocolError(CdcOutboxError):
    """A message that violates the protocol. No message after it is read."""

    exit_code = 70
    default_code = "bug"
