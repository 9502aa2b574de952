"""One session of a relay: its parameters, how it ends when Kafka refuses records, and what it leaves for the next one.

In: values of the preflight and the settings. Out: the same, as data. Never: an LSN that the next session reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cdc_outbox.errors import StreamGap
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.transaction import NativeReader
from cdc_outbox.lsn import UNSET, Lsn, LsnRange
from cdc_outbox.relay.claim_limit import ClaimLimit
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.server_shutdown import ServerShutdown


class BatchRejected(Exception):
    """Kafka refused records of these transactions for good. The next session sends their records one by one."""

    def __init__(self, lsns: frozenset[LsnRange], text: str) -> None:
        super().__init__(text)
        self.lsns = lsns


@dataclass(frozen=True, slots=True)
class SessionParams:
    """Parameters of one session."""

    table_oids: dict[int, TableName]
    """OIDs and names of the outbox tables at the preflight."""
    looked_at: Lsn
    """The server's LSN at the preflight: a table with another name in a transaction before it has been renamed since."""
    confirmed: Lsn
    """The slot's confirmed LSN at the start: no lower LSN is reported. Unset for a slot that was just created."""
    shutdown_timeout: float
    """Seconds that a stop may take."""
    policy: PoisonPolicy
    target: Lsn | None = None
    """Stop once everything up to this LSN is delivered."""
    isolated_lsns: frozenset[LsnRange] = field(default=frozenset())
    """Commit LSNs of transactions whose records are sent one by one."""
    native: NativeReader | None = None
    """Takes plain rows from the stream before the loop does."""
    max_delay: float = 0.0
    """Seconds that an event may wait for others, to be produced together."""
    raise_findings: Callable[[bool], None] = lambda _paused: None
    """Called each turn, with whether reading is paused; raises findings of the catalog watch."""
    server_shutdown: ServerShutdown = field(default_factory=ServerShutdown)
    claim_limit: ClaimLimit = field(default_factory=lambda: ClaimLimit(UNSET, tables=False))
    """Limits the LSN that may be confirmed."""
    gap: StreamGap | None = None
    """Raised once everything up to `looked_at` is delivered: the table may not have these rows any more."""


@dataclass(slots=True)
class History:
    """What the sessions of a relay leave for the next one."""

    streamed: bool = False
    """Whether a session has streamed."""
    settled: bool = True
    """Whether the last session left nothing unconfirmed."""
    gap_streamed: bool = False
    """Whether a session has sent all that the slot still has before a gap: the table may not have these rows any more."""
    isolated_lsns: frozenset[LsnRange] = frozenset()
    """Commit LSNs of transactions whose records are sent one by one."""
