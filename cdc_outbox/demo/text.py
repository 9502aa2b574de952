"""The demo's texts: an introduction, the result, and commands to try. In: facts. Out: text. Pure."""

from __future__ import annotations

import shlex
from typing import Final

from cdc_outbox.demo.verdict import Verdict, in_words

_BEFORE: Final = """\
An embedded PostgreSQL, an embedded Kafka, and a relay ({seconds:.0f} seconds).

A shop stores orders in PostgreSQL; other programs read about them in Kafka.
Writing to both, one after the other, loses or invents events when a process
dies in between. So the shop writes to PostgreSQL only: the change and its
event, in one transaction:

    BEGIN;
    UPDATE orders SET state = 'paid' WHERE id = 42;
    SELECT outbox_emit('order', '42', 'OrderPaid', '{{"id": 42}}');
    COMMIT;

cdc-outbox reads committed events from the write-ahead log and sends them to
Kafka:

    shop -> PostgreSQL -> relay (cdc-outbox run) -> Kafka -> consumer

Half way the relay is killed with SIGKILL, as in a crash, and started again. At
the end, the events that the shop wrote and those that the consumer read are
compared.
"""

_GOOD: Final = """\
No event was lost, reordered or invented. The relay wrote no file and no table:
PostgreSQL's replication slot stores the position that Kafka has confirmed, and
the second relay continued there. Events that had arrived without being
confirmed arrived again, with the same id."""

_BAD: Final = """\
This is not what cdc-outbox promises. Please report it, with the lines above."""

_NEXT: Final = """\
next: {program} demo --keep   (the servers stay, for commands of yours)
      docs/tutorial.md         (an outbox of your own, in 15 minutes)"""

_KEPT: Final = """\
Servers and relay stay up until you press Ctrl-C. Paste this into another terminal:

export CDC_OUTBOX_DSN={dsn}
export CDC_OUTBOX_BROKERS={brokers}

and then, for instance:

# write an event as an application would: it appears below
{program} emit --aggregate-type order --aggregate-id 4711 --type OrderPlaced --payload '{{"total": 99}}'

# all events as JSON lines, without Kafka
{program} tail

# how far the relay has come
{program} slot status
curl http://{http}/status

Records from here on:"""


def before(seconds: float) -> str:
    """The introduction."""
    return _BEFORE.format(seconds=seconds)


def after(verdict: Verdict) -> str:
    """The result."""
    title = "VERDICT: GOOD" if verdict.good else "VERDICT: BAD"
    return "\n".join(["", title, "", *in_words(verdict), "", _GOOD if verdict.good else _BAD])


def following(program: str) -> str:
    """What to do after the demo."""
    return "\n" + _NEXT.format(program=program)


def kept(program: str, dsn: str, brokers: str, http: str) -> str:
    """Commands to try while the servers are kept."""
    return "\n" + _KEPT.format(program=program, dsn=shlex.quote(dsn), brokers=brokers, http=http)
