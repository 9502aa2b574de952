"""librdkafka's properties by name: which has two names, which are free, and which have no effect on a producer.

In: nothing. Out: constants. Never: a value. Source: librdkafka's CONFIGURATION.md, and `rd_kafka_conf_dump` for hidden ones.
A property that is in no table here, nor among the rules of `kafka/properties.py`, is refused: what it does is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

ALIASES: Final[Mapping[str, str]] = {
    "compression.codec": "compression.type",
    "delivery.timeout.ms": "message.timeout.ms",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "metadata.broker.list": "bootstrap.servers",
    "queue.buffering.max.ms": "linger.ms",
    "request.required.acks": "acks",
    "retries": "message.send.max.retries",
    "sasl.mechanism": "sasl.mechanisms",
    "sasl.oauthbearer.client.credentials.client.id": "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.credentials.client.secret": "sasl.oauthbearer.client.secret",
}
"""A property's other name, and the one that is kept: precedence is that of the source, whatever the spelling."""

NUMBERS: Final = frozenset(
    re.findall(
        r"\S+",
        """
        api.version.request.timeout.ms batch.num.messages batch.size broker.address.ttl compression.level
        connections.max.idle.ms linger.ms log_level message.copy.max.bytes message.max.bytes metadata.max.age.ms
        metadata.recovery.rebootstrap.trigger.ms metadata.request.timeout.ms queue.buffering.backpressure.threshold
        receive.message.max.bytes reconnect.backoff.jitter.ms reconnect.backoff.max.ms reconnect.backoff.ms
        request.timeout.ms retry.backoff.max.ms retry.backoff.ms sasl.kerberos.min.time.before.relogin
        sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.nbf.seconds
        socket.blocking.max.ms socket.connection.setup.timeout.ms socket.max.fails socket.receive.buffer.bytes
        socket.send.buffer.bytes socket.timeout.ms statistics.interval.ms sticky.partitioning.linger.ms
        topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt topic.metadata.refresh.fast.interval.ms
        topic.metadata.refresh.interval.ms transaction.timeout.ms
        """,
    )
)
"""Properties of a producer that take a whole number; `linger.ms` also a fraction. librdkafka reads the digits at the beginning
of a value, and ignores what follows them.
"""

FREE: Final = NUMBERS | frozenset(
    re.findall(
        r"\S+",
        """
        allow.auto.create.topics broker.address.family builtin.features client.dns.lookup client.id client.rack
        client.software.name client.software.version compression.type debug enable.metrics.push enable.random.seed
        enable.sasl.oauthbearer.unsecure.jwt enable.sparse.connections enable.ssl.certificate.verification
        https.ca.location https.ca.pem log.connection.close log.thread.name metadata.recovery.strategy
        produce.offset.report sasl.kerberos.keytab sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanisms
        sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud sasl.oauthbearer.assertion.claim.iss
        sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.sub
        sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
        sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
        sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.id sasl.oauthbearer.client.secret
        sasl.oauthbearer.config sasl.oauthbearer.extensions sasl.oauthbearer.grant.type
        sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method sasl.oauthbearer.scope
        sasl.oauthbearer.sub.claim.name sasl.oauthbearer.token.endpoint.url sasl.password sasl.username
        security.protocol socket.keepalive.enable socket.nagle.disable ssl.ca.certificate.stores ssl.ca.location
        ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.cipher.suites ssl.crl.location ssl.curves.list
        ssl.endpoint.identification.algorithm ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location
        ssl.keystore.password ssl.sigalgs.list topic.metadata.refresh.sparse
        """,
    )
)
"""Properties of a producer. No value of one can lose, repeat, reorder or fake a delivery, or load code."""

CONSUMER_ONLY: Final = frozenset(
    re.findall(
        r"\S+",
        """
    auto.commit.enable auto.commit.interval.ms auto.offset.reset check.crcs consume.callback.max.messages
    coordinator.query.interval.ms enable.auto.commit enable.auto.offset.store enable.partition.eof fetch.error.backoff.ms
    fetch.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms group.id group.instance.id group.protocol
    group.protocol.type group.remote.assignor heartbeat.interval.ms isolation.level max.partition.fetch.bytes
    max.poll.interval.ms max.poll.records offset.store.method offset.store.path offset.store.sync.interval.ms
    partition.assignment.strategy queued.max.messages.kbytes queued.min.messages session.timeout.ms
    share.acknowledgement.mode
    """,
    )
)
"""Without effect: a properties file of a Java client may have them."""

MESSAGE_MAX_BYTES: Final = 1_000_000
"""librdkafka's default for `message.max.bytes`: the largest record that a producer takes, in bytes."""
