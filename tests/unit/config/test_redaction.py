"""A secret is found wherever libpq or librdkafka would find it, and what cannot be understood is not shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_outbox.config import redaction
from cdc_outbox.config.redaction import argument_spans, is_secret_property, masked_dsn, remember_dsn, scrub


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("", ""),
        ("host=db password=hunter2 dbname=shop", "host=db password=*** dbname=shop"),
        ("password = hunter2", "password = ***"),
        (r"password='hun \'ter\\ 2' host=db", "password='***' host=db"),
        (r"password=hun\ ter2 host=db", "password=*** host=db"),
        ("host=db password=", "host=db password="),
        (
            "sslpassword=k scram_client_key=x oauth_client_secret=y",
            "sslpassword=*** scram_client_key=*** oauth_client_secret=***",
        ),
        ("pasword=hunter2 host=db", "pasword=*** host=db"),
        ("dbname=postgresql://a:hunter2@b/c", "dbname=***"),
        ("postgresql://relay:hunter2@db:5432/shop", "postgresql://relay:***@db:5432/shop"),
        (
            "postgres://relay:hun?ter2@db1:1,db2:2/shop?sslmode=require",
            "postgres://relay:***@db1:1,db2:2/shop?sslmode=require",
        ),
        ("postgresql://relay@[::1]:5432/shop", "postgresql://relay@[::1]:5432/shop"),
        (
            "postgresql:///shop?host=/run&password=hunter2&user=relay",
            "postgresql:///shop?host=/run&password=***&user=relay",
        ),
        ("postgresql://db/shop?pass%77ord=hunter2", "postgresql://db/shop?pass%77ord=***"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_only_the_secret_is_masked(dsn: str, shown: str) -> None:
    assert masked_dsn(dsn) == shown


@pytest.mark.parametrize(
    "dsn",
    [
        "hunter2",
        "host=db password='hunter2",
        "host=db hunter2",
        "host=db pass word=hunter2",
        "postgresql://relay:hun@ter2@db/shop",
        "postgresql://relay:hun/ter2@db/shop",
        "postgresql://relay:123/ter2@db/shop",
        "postgresql://relay:hunter2",
        "postgresql://db/shop?hunter2",
        "mysql://relay:hunter2@db/shop",
    ],
)
def test_what_cannot_be_parsed_is_masked_as_a_whole(dsn: str) -> None:
    assert masked_dsn(dsn) == "***"


passwords = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=6, max_size=20)


@given(passwords)
def test_whatever_psycopg_writes_is_understood(password: str) -> None:
    """psycopg quotes by libpq's rules: any password, spaces, quotes and backslashes included."""
    dsn = make_conninfo("host=db dbname=shop", password=password)
    assert conninfo_to_dict(dsn)["password"] == password
    shown = conninfo_to_dict(masked_dsn(dsn))
    assert shown == {"host": "db", "dbname": "shop", "password": "***"}


@given(st.text("aB9 '\\=@:/?&%#,[]", max_size=24), st.sampled_from(["", "postgresql://u:", "host=db password="]))
def test_no_password_that_libpq_would_find_is_shown(noise: str, start: str) -> None:
    """Against libpq itself: where it parses a string and finds a password, the masked string has another one."""
    dsn = start + noise
    try:
        password = conninfo_to_dict(dsn).get("password")
    except (ProgrammingError, UnicodeDecodeError):  # psycopg decodes %FF as it comes
        return
    if not password:
        return
    masked = masked_dsn(dsn)
    if masked != "***":
        assert conninfo_to_dict(masked)["password"] == "***"


@pytest.mark.parametrize(
    ("argument", "secrets"),
    [
        ("--dsn=postgresql://u:hunter2@db/x", ["hunter2"]),
        ("host=db password='a b'", ["a b"]),
        ("sasl.password=hunter2", ["hunter2"]),
        ("-Xsasl.password=hunter=2", ["hunter=2"]),
        ("password=hunter2", ["hunter2"]),
        ("postgresql://u:h@u@db/x", ["postgresql://u:h@u@db/x"]),
        ("acks=all", []),
        ("--key-column=password_hash", []),
        ("run", []),
        ("", []),
    ],
)
def test_secrets_among_arguments_are_found(argument: str, secrets: list[str]) -> None:
    assert [argument[first:end] for first, end in argument_spans(argument)] == secrets


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.jaas.config",
    ],
)
def test_every_property_of_librdkafka_that_holds_a_secret_is_known(name: str) -> None:
    assert is_secret_property(name)


@pytest.mark.parametrize("name", ["sasl.username", "ssl.ca.location", "ssl.key.location", "acks", "ssl.ca.pem"])
def test_other_properties_are_shown(name: str) -> None:
    assert not is_secret_property(name)


def test_what_was_remembered_is_scrubbed_in_each_of_its_spellings() -> None:
    remember_dsn("postgresql://relay:hun%40ter2@db/shop")
    remember_dsn(r"password='it\'s secret' user=relay")
    text = scrub("a hun%40ter2, b hun@ter2, c it's secret, d relay, e shop")
    assert text == "a ***, b ***, c ***, d relay, e shop"


def test_pieces_of_a_broken_connection_string_are_scrubbed_too() -> None:
    """libpq's complaint about a string it cannot parse quotes the piece that it stumbled over."""
    dsn = "host=db hunter22"
    remember_dsn(dsn)
    with pytest.raises(ProgrammingError) as raised:
        conninfo_to_dict(dsn)
    assert "hunter22" in str(raised.value)
    assert "hunter22" not in scrub(str(raised.value))


def test_a_password_that_is_also_the_users_name_does_not_make_messages_unreadable() -> None:
    remember_dsn("postgresql://postgres:postgres@db/postgres")
    assert scrub('database "postgres"') == 'database "postgres"'
    remember_dsn("host=db password=out")
    assert scrub("the outbox is out") == "the outbox is out"
