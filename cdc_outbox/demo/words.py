"""What the demo says before and after, for somebody who has never heard of an outbox. In: facts. Out: text. Pure."""

from __future__ import annotations

import shlex
from typing import Final

from cdc_outbox.demo.verdict import Verdict, in_words

_BEFORE: Final = """\
cdc-outbox, the whole of it, on servers that come and go with this command
(about {seconds:.0f} seconds).

A shop takes orders in PostgreSQL, and other programs want to hear of them
through Kafka. Writing to both by turns goes wrong whenever something dies in
between. So the shop writes to PostgreSQL alone: the change, and an event that
says so, in one transaction:

    BEGIN;
    UPDATE orders SET state = 'paid' WHERE id = 42;
    SELECT outbox_emit('order', '42', 'OrderPaid', '{{"id": 42}}');
    COMMIT;

cdc-outbox reads what was committed from the write-ahead log, and sends each
event to Kafka:

    shop -> PostgreSQL -> relay (cdc-outbox run) -> Kafka -> consumer

Half way the relay is killed with SIGKILL, as a crash would do it, and started
again. Shop and consumer keep books of what they wrote and what they read; at
the end the books are compared.
"""

_GOOD: Final = """\
Nothing was lost, nothing came out of order, and nothing was seen that did not
happen. The relay saved no file and wrote to no table: PostgreSQL's replication
slot knows how far Kafka has confirmed, and the second relay went on from there.
What had arrived without being confirmed came again, under the same id."""

_BAD: Final = """\
This is not what cdc-outbox promises. Please report it, with the lines above."""

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
    """What is about to be shown."""
    return _BEFORE.format(seconds=seconds)


def after(verdict: Verdict) -> str:
    """What was shown."""
    title = "VERDICT: GOOD" if verdict.good else "VERDICT: BAD"
    return "\n".join(["", title, "", *in_words(verdict), "", _GOOD if verdict.good else _BAD])


def kept(program: str, dsn: str, brokers: str, http: str) -> str:
    """What to type while the servers stay up."""
    return "\n" + _KEPT.format(program=program, dsn=shlex.quote(dsn), brokers=brokers, http=http)
