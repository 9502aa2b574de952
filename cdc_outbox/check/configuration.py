"""Checks of the settings without any server: invalid settings, and settings that are a risk.

In: `Settings`. Out: lines `config.…`. Never: a connection, not even by librdkafka: its client gets no broker address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective
from cdc_outbox.postgres import conninfo
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.relay.poison import PoisonPolicy

GRACE_SECONDS: Final = 30.0
"""The usual time between TERM and KILL, of Kubernetes and of this project's Compose files."""

LINGER_MILLISECONDS: Final = 1000.0
"""Milliseconds. Above this, linger.ms adds a noticeable delay to every event."""

_PLAIN: Final = frozenset({"plaintext", "sasl_plaintext"})
_UNVERIFIED: Final = {"require", "prefer", "allow", "disable"}


def check_configuration(settings: Settings, report: Report) -> dict[str, str] | None:
    """Check the settings alone. Returns librdkafka's properties, or None if librdkafka rejects them."""
    with report.judging("config.dsn"):
        transport = conninfo.transport(settings.dsn.reveal())
        report.ok("config.dsn", f"host {', '.join(host or 'of the local socket' for host in transport.hosts)}")
        _check_postgres_tls(transport, report)
    with report.judging("config.records"):
        Mappings(settings)
        report.ok("config.records", f"tables {', '.join(map(str, settings.tables))} to topic {settings.topic}")
    properties = _check_kafka(settings, report)
    _check_poison(settings, report)
    _check_process(settings, report)
    return properties


def is_local(host: str) -> bool:
    """Whether the host is this machine: a socket's folder, localhost, a loopback address."""
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_postgres_tls(transport: conninfo.Transport, report: Report) -> None:
    check = "config.postgres-tls"
    remote = [host for host in transport.hosts if not is_local(host)]
    verify = "sslmode=verify-full sslrootcert=FILE in --dsn (the CA that signed the server's certificate; a public one: system)"
    if transport.service:
        report.not_checked("hosts and TLS are in the service file that --dsn names", check)
    elif transport.sslmode.startswith("verify-") and transport.missing_root:
        report.fail(
            check,
            f"sslmode={transport.sslmode} and no CA to verify with: {transport.missing_root} is not there",
            "sslrootcert=FILE in --dsn with the CA that signed the server's certificate; a public one: sslrootcert=system",
        )
    elif not remote:
        report.ok(check, "the server is on this machine")
    elif transport.sslmode in _UNVERIFIED:
        report.warn(
            check,
            f"sslmode={transport.sslmode} does not verify the identity of {', '.join(remote)}: a man in the middle can read "
            "the password and change events",
            verify,
        )
    elif transport.sslmode == "verify-ca":
        report.warn(check, "sslmode=verify-ca takes a certificate of any host that the CA signed", verify)
    else:
        report.ok(check, f"sslmode={transport.sslmode}")


def _check_kafka(settings: Settings, report: Report) -> dict[str, str] | None:
    taken = None
    with report.judging("config.kafka"):
        properties = effective(settings.kafka(), settings)
        _try_out(properties)
        taken = properties
        report.ok("config.kafka", f"librdkafka takes its {len(properties)} properties")
        _check_kafka_tls(settings, properties, report)
        if float(properties.get("linger.ms", "0")) > LINGER_MILLISECONDS:
            report.warn(
                "config.latency",
                f"linger.ms={properties['linger.ms']} lets an event wait that long for others",
                "leave linger.ms out (2 ms), or set it below 1000",
            )
    return taken


def _try_out(properties: Mapping[str, str]) -> None:
    """Create a librdkafka client without a broker: it reads its settings and files. Raises ConfigurationError."""
    alone = {**properties, "bootstrap.servers": "", "log_level": "0"}
    if _mechanism(properties) == "OAUTHBEARER":  # a client that is made with it asks for a token at once
        alone = {name: value for name, value in alone.items() if not name.startswith("sasl.")}
        alone["security.protocol"] = alone.get("security.protocol", "plaintext").lower().removeprefix("sasl_")
    publisher = Publisher(alone, Counters())
    publisher.abandon()


def _mechanism(properties: Mapping[str, str]) -> str:
    return (properties.get("sasl.mechanism") or properties.get("sasl.mechanisms") or "").upper()


def _check_kafka_tls(settings: Settings, properties: Mapping[str, str], report: Report) -> None:
    check = "config.kafka-tls"
    protocol = properties.get("security.protocol", "plaintext").lower()
    remote = [host for host in broker_hosts(settings.brokers) if not is_local(host)]
    if protocol in _PLAIN and not remote:
        report.ok(check, "the brokers are on this machine")
    elif protocol in _PLAIN:
        reported = "the password and every event" if protocol == "sasl_plaintext" else "every event"
        report.warn(
            check,
            f"security.protocol={protocol} to {', '.join(remote)}: a man in the middle can read {reported}",
            f"-X security.protocol={'sasl_ssl' if protocol == 'sasl_plaintext' else 'ssl'}, at a listener of the brokers that "
            "has TLS; -X ssl.ca.location=FILE unless a public CA signed its certificate",
        )
    elif properties.get("enable.ssl.certificate.verification", "true").lower() not in {"true", "t", "1"}:
        report.warn(
            check,
            "enable.ssl.certificate.verification=false: a man in the middle can pose as the broker",
            "leave it out; -X ssl.ca.location=FILE names the CA that signed the brokers' certificates",
        )
    elif properties.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        report.warn(
            check,
            "ssl.endpoint.identification.algorithm=none takes a certificate of any host that the CA signed",
            "leave it out; the brokers' certificates need the names in advertised.listeners",
        )
    elif not _has_ca(properties):
        report.fail(
            check,
            f"security.protocol={protocol} and no CA to verify with: this machine has none",
            "-X ssl.ca.location=FILE with the CA that signed the brokers' certificates; a public one: install ca-certificates",
        )
    else:
        report.ok(check, f"security.protocol={protocol}")


def broker_hosts(brokers: str) -> list[str]:
    """Hosts of `SSL://kafka1:9093,[::1]:9092`."""
    return [
        re.sub(r":\d*$", "", broker.strip().rpartition("://")[2]).strip("[]")
        for broker in brokers.split(",")
        if broker.strip()
    ]


def _has_ca(properties: Mapping[str, str]) -> bool:
    named = any(properties.get(name) for name in ("ssl.ca.location", "ssl.ca.pem", "ssl.keystore.location"))
    return named or any(Path(bundle).is_file() for bundle in conninfo.CA_BUNDLES)


def _check_poison(settings: Settings, report: Report) -> None:
    with report.judging("config.poison"):
        PoisonPolicy(settings.on_poison, settings.dead_letter_topic, 0, Counters())
        if settings.on_poison == "skip":
            report.warn(
                "config.poison",
                "--on-poison skip: an event that Kafka rejects is skipped; only a log line records it",
                "--on-poison dead-letter --dead-letter-topic TOPIC keeps them; --on-poison stop loses none",
            )
        else:
            report.ok("config.poison", f"--on-poison {settings.on_poison}")


def _check_process(settings: Settings, report: Report) -> None:
    if settings.shutdown_timeout >= GRACE_SECONDS:
        report.warn(
            "config.shutdown",
            f"--shutdown-timeout {settings.shutdown_timeout:g}s: container runtimes usually kill the process after "
            f"{GRACE_SECONDS:g} s, and then events are delivered twice",
            "--shutdown-timeout 25s; or a longer grace period (Kubernetes: terminationGracePeriodSeconds, Compose: "
            "stop_grace_period, systemd: TimeoutStopSec)",
        )
    else:
        report.ok("config.shutdown", f"--shutdown-timeout {settings.shutdown_timeout:g}s")
