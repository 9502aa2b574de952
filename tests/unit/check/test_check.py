"""`check`, what needs no server: settings, the lines, whose cure, and judgements of what a cluster tells."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from cdc_outbox.check import cluster, configuration, database, platforms, report, run_check
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import Secret
from cdc_outbox.counters import Counters
from cdc_outbox.errors import CannotConnect, ConfigurationError
from cdc_outbox.kafka.topics import Topic
from cdc_outbox.postgres import connect, conninfo
from cdc_outbox.postgres.errors import translate
from cdc_outbox.shutdown import Stop

if TYPE_CHECKING:
    from pathlib import Path

    from cdc_outbox.check.report import Finding


def settings(dsn: str = "host=127.0.0.1", brokers: str = "127.0.0.1:9092", /, **given: Any) -> Settings:
    properties = {name.replace("_", "."): str(given.pop(name)) for name in list(given) if name in _PROPERTIES}
    return Settings(brokers=brokers, dsn=Secret.of(dsn), kafka=lambda: properties, **given)


_LOGIN = {"sasl_mechanism": "PLAIN", "sasl_username": "relay", "sasl_password": "tell-nobody"}

_PROPERTIES = {
    *_LOGIN,
    "security_protocol",
    "ssl_ca_location",
    "enable_ssl_certificate_verification",
    "ssl_endpoint_identification_algorithm",
    "linger_ms",
    "acks",
    "no_such_property",
}


def offline(chosen: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in run_check(chosen, Stop(), offline=True).findings}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of libpq's, and no CA, of whoever runs the tests."""
    for name in ("PGHOST", "PGSSLMODE", "PGSSLROOTCERT", "PGSERVICE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


# --- settings


def test_nothing_is_wrong_with_servers_on_this_machine() -> None:
    assert {finding.status for finding in offline(settings()).values()} == {"ok"}


@pytest.mark.parametrize(
    ("dsn", "status", "words"),
    [
        ("host=db.example.com", "warn", "sslmode=prefer does not verify the identity of db.example.com"),
        ("host=db.example.com sslmode=require", "warn", "sslmode=require"),
        ("host=10.0.0.7,db.example.com sslmode=disable", "warn", "10.0.0.7, db.example.com"),
        ("host=db.example.com sslmode=verify-full", "fail", "no CA to verify with"),
        ("host=db.example.com sslmode=verify-full sslrootcert=/no/such/file.pem", "fail", "/no/such/file.pem"),
        ("postgresql://u:p@db.example.com/x?sslmode=verify-full&sslrootcert=system", "ok", "verify-full"),
        ("host=/var/run/postgresql", "ok", "on this machine"),
        ("host=::1", "ok", "on this machine"),
    ],
)
def test_the_way_to_postgres(dsn: str, status: str, words: str) -> None:
    found = offline(settings(dsn))["config.postgres-tls"]
    assert (found.status, words in found.message) == (status, True), found
    assert bool(found.cures) == (status != "ok")
    assert "sslrootcert" in "".join(found.cures) or status == "ok"


def test_a_ca_that_is_there_is_right_but_for_the_host(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    verified = settings(f"host=db.example.com sslmode=verify-full sslrootcert={ca}")
    assert offline(verified)["config.postgres-tls"].status == "ok"
    half = offline(settings(f"host=db.example.com sslmode=verify-ca sslrootcert={ca}"))["config.postgres-tls"]
    assert (half.status, "any host" in half.message) == ("warn", True)


def test_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.com")
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert "sslmode=disable" in offline(settings(""))["config.postgres-tls"].message


def test_a_dsn_that_cannot_be_parsed_is_reported_without_its_password() -> None:
    found = offline(settings("postgresql://relay:tell nobody@db/x"))["config.dsn"]
    assert found.status == "fail"
    assert "nobody" not in str(found)


@pytest.mark.parametrize(
    ("properties", "status", "words"),
    [
        ({}, "warn", "security.protocol=plaintext to kafka.example.com"),
        ({"security_protocol": "sasl_plaintext", **_LOGIN}, "warn", "the password and every event"),
        (
            {"security_protocol": "ssl", "enable_ssl_certificate_verification": "false"},
            "warn",
            "can pose as the broker",
        ),
        ({"security_protocol": "ssl", "ssl_endpoint_identification_algorithm": "none"}, "warn", "any host"),
    ],
)
def test_the_way_to_kafka(properties: dict[str, Any], status: str, words: str) -> None:
    found = offline(settings("host=127.0.0.1", "kafka.example.com:9092", **properties))["config.kafka-tls"]
    assert (found.status, words in found.message) == (status, True), found
    assert found.cures


def test_a_token_is_not_asked_for_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka would fetch one as soon as a client is made."""
    login = {
        "sasl.mechanism": "OAUTHBEARER",
        "security.protocol": "sasl_plaintext",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "http://127.0.0.1:1/token",
        "sasl.oauthbearer.client.id": "relay",
        "sasl.oauthbearer.client.secret": "tell-nobody",
    }
    chosen = Settings(brokers="127.0.0.1:9092", dsn=Secret.of("host=127.0.0.1"), kafka=lambda: login)
    made: list[dict[str, str]] = []
    original = configuration.Publisher

    def make(properties: dict[str, str], counters: Counters) -> Any:
        made.append(properties)
        return original(properties, counters)

    monkeypatch.setattr(configuration, "Publisher", make)
    assert offline(chosen)["config.kafka"].status == "ok"
    assert not [name for name in made[0] if name.startswith("sasl.")]
    assert made[0]["security.protocol"] == "plaintext"


def test_hosts_of_brokers_are_found_in_whatever_form_they_are_named() -> None:
    assert configuration.broker_hosts("SSL://[::1]:9092, kafka.example.com:9093,a") == ["::1", "kafka.example.com", "a"]


def test_tls_to_kafka_without_any_ca_on_the_machine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = settings("host=127.0.0.1", "kafka.example.com:9092", security_protocol="ssl")
    monkeypatch.setattr(conninfo, "CA_BUNDLES", ())
    found = offline(remote)["config.kafka-tls"]
    assert (found.status, "ssl.ca.location=FILE" in found.cures[0]) == ("fail", True)


@pytest.mark.parametrize(
    ("given", "check", "words"),
    [
        ({"acks": "1"}, "config.kafka", "acks=1 is refused"),
        ({"no_such_property": "1"}, "config.kafka", "no.such.property"),
        ({"security_protocol": "ssl", "ssl_ca_location": "/no/such.pem"}, "config.kafka", "ssl.ca.location"),
        ({"topic": "{half"}, "config.records", "cannot make a topic"),
        ({"on_poison": "dead-letter", "dead_letter_topic": "{column}"}, "config.poison", "names a column"),
    ],
)
def test_what_run_would_refuse_fails_without_a_server(given: dict[str, str], check: str, words: str) -> None:
    found = offline(settings(**given))[check]
    assert (found.status, words in found.message) == ("fail", True), found
    assert found.cures


@pytest.mark.parametrize(
    ("given", "check"),
    [
        ({"shutdown_timeout": 45.0}, "config.shutdown"),
        ({"on_poison": "skip"}, "config.poison"),
        ({"linger_ms": "5000"}, "config.latency"),
    ],
)
def test_unfit_settings_are_warned_of(given: dict[str, Any], check: str) -> None:
    found = offline(settings(**given))[check]
    assert found.status == "warn"
    assert found.cures


# --- the server


def test_an_old_server_fails() -> None:
    old = SimpleNamespace(info=SimpleNamespace(server_version=130_014, parameter_status=lambda _name: "13.14"))
    told = report.Report()
    database._check_version(cast("connect.Connection", old), told)
    [found] = told.findings
    assert (found.status, "13.14 is older than 14" in found.message) == ("fail", True)


class Answers:
    """A connection that knows the answers to two questions."""

    def __init__(self, idle: str, sender: str) -> None:
        self._idle, self._sender = idle, sender

    def execute(self, query: bytes) -> SimpleNamespace:
        row = (self._idle if b"idle_replication_slot_timeout" in query else self._sender,)
        return SimpleNamespace(fetchone=lambda: row)


@pytest.mark.parametrize(
    ("idle", "sender", "status", "cure"),
    [
        ("10min", "60000", "warn", "ALTER SYSTEM SET idle_replication_slot_timeout = '0'"),
        ("0", "0", "warn", "ALTER SYSTEM SET wal_sender_timeout = '60s'"),
        ("", "2000", "warn", "ALTER SYSTEM SET wal_sender_timeout = '60s'"),
        ("", "60000", "ok", ""),
    ],
)
def test_timeouts_of_the_server(idle: str, sender: str, status: str, cure: str) -> None:
    """An empty idle timeout is a server before 18, which knows no such setting."""
    told = report.Report()
    database._check_timeouts(cast("connect.Connection", Answers(idle, sender)), platforms.POSTGRESQL, told)
    [found] = told.findings
    assert (found.status, cure in "".join(found.cures)) == (status, True), found


def test_a_pooler_is_reported_as_such() -> None:
    refusal = psycopg.OperationalError("connection failed: FATAL:  08P01: unsupported startup parameter: options")
    error = translate(refusal)
    assert isinstance(error, CannotConnect)
    assert "PgBouncer" in error.cure


@pytest.mark.parametrize("platform", platforms.PLATFORMS, ids=lambda platform: platform.name)
def test_each_service_has_its_own_words_with_nothing_left_to_fill_in(platform: platforms.Platform) -> None:
    told = [
        platform.set("max_slot_wal_keep_size", 50 * 1024**3),
        platform.set("max_replication_slots", 20, restart=True),
        platform.grant_replication("The Relay"),
        platform.make_logical(),
    ]
    assert all(words.startswith(platform.name) for words in told)
    assert not re.search(r"[{}]", "".join(told))
    assert "51200" in told[0]
    assert '"The Relay"' in told[2]


# --- the cluster


@pytest.mark.parametrize(
    ("replicas", "in_sync", "needed", "status", "words"),
    [
        (3, 3, 2, "ok", ""),
        (3, 1, 2, "fail", "it takes no record"),
        (3, 3, 1, "warn", "one broker alone has it"),
        (2, 2, 2, "warn", "while one broker restarts"),
        (1, 1, 1, "warn", "1 copy"),
        (1, 1, 2, "warn", "1 copy"),
        (3, 3, None, "not-checked", ""),
    ],
)
def test_the_replication_of_a_topic_is_judged(
    replicas: int, in_sync: int, needed: int | None, status: str, words: str
) -> None:
    topic = Topic("events", 6, replicas, in_sync, may_write=True, max_message_bytes=1_048_588, min_in_sync=needed)
    told = report.Report()
    there = cluster.Cluster("b:9092", 3, None, cast("Any", None))
    cluster._check_replication(there, topic, told)
    [found] = told.findings
    assert (found.status, words in found.message) == (status, True), found
    assert bool(found.cures) == (status in {"warn", "fail"})


# --- the report


def test_a_line_is_one_line_whatever_a_server_sends() -> None:
    told = report.Report()
    with told.judging("a.b"):
        raise ConfigurationError("two\nlines \x1b[31m", cure="cure\nit")
    first, second, last = report.lines(told, colors=False)
    assert first == "fail  a.b  two lines \\x1b[31m"
    assert second == "      -> cure it"
    assert last == "1 failed"


def test_better_cures_take_the_place_of_the_errors_own() -> None:
    told = report.Report()
    with told.judging("a.b", "here"):
        raise ConfigurationError("no", cure="anywhere")
    assert told.findings[0].cures == ("here",)


def test_passed_checks_and_their_json_document() -> None:
    told = report.Report()
    told.ok("a.b", "fine")
    told.not_checked("no server", "a.c")
    assert told.passed(strict=True)
    told.warn("a.d", "hm", "do this")
    assert told.passed()
    assert not told.passed(strict=True)
    told.fail("a.e", "no", "do that")
    assert not told.passed()
    document = json.loads(json.dumps(told.document()))
    assert document["ok"] is False
    assert document["counts"] == {"ok": 1, "warn": 1, "fail": 1, "not-checked": 1}
    assert document["checks"][1] == {
        "check": "a.c",
        "status": "not-checked",
        "what": "not checked: no server",
        "cures": [],
    }
