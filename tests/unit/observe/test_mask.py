"""No secret that a library quotes back at us reaches a reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config import redaction
from cdc_outbox.observe.mask import mask, names_secret

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://relay:{SECRET}@db:5432/shop?sslmode=require",
        f"postgres://relay:p@ss/{SECRET}@db/shop",
        f"postgresql://db/shop?user=relay&password={SECRET}",
        f"host=db password={SECRET} user=relay",
        f"host=db password = '{SECRET} with \\' quote' user=relay",
        f"host=db password=back\\ slash{SECRET} user=relay",
        f"host=db sslpassword={SECRET}",
        f"PGPASSWORD={SECRET} cdc-outbox run",
        f"sasl.password={SECRET}",
        f"{{'sasl.password': '{SECRET}', 'acks': 'all'}}",
        f'{{"sasl.password":"{SECRET}"}}',
        f"ssl.key.password: {SECRET}",
        f"sasl.oauthbearer.client.secret={SECRET}",
        f'org.apache.kafka…PlainLoginModule required username="a" password="{SECRET}";',
        f"scram_client_key={SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\nand no end",
    ],
)
def test_a_secret_is_masked_in_every_form_it_may_be_quoted_in(text: str) -> None:
    assert SECRET not in mask(text)
    assert "***" in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        'password authentication failed for user "relay"',
        "fe_sendauth: no password supplied",
        "postgresql://relay@db/shop",
        "kafka-1:9092,kafka-2:9092",
        "SASL authentication error: Authentication failed",
        "key 4711",
    ],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_what_is_no_secret_in_a_conninfo_stays_readable() -> None:
    assert mask("host=db password=x user=relay") == "host=db password=*** user=relay"
    assert mask("postgresql://relay:x@db:5432/shop") == "postgresql://relay:***@db:5432/shop"


def test_a_secret_that_was_remembered_is_masked_wherever_it_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    redaction.remember("hunter22")

    assert mask("unexpected token hunter22 in line 3") == "unexpected token *** in line 3"


@pytest.mark.parametrize("name", ["sasl.oauthbearer.client.secret", "sasl.password", "ssl.key.password"])
def test_a_password_that_is_a_word_of_its_own_settings_name_hides_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", {"secret", "password"})
    assert mask(f"{name}={SECRET}").endswith(".***=***")


@given(
    st.text(alphabet=st.characters(exclude_characters=" '\"\\\n\t\r", exclude_categories=["Cs", "Z", "Cc"]), min_size=8)
)
def test_no_unquoted_password_survives(password: str) -> None:
    assert password not in mask(f"host=db password={password} user=relay").removeprefix("host=db password=")


@pytest.mark.parametrize("name", ["password", "sasl.password", "sslpassword", "client_secret", "private_key"])
def test_a_field_may_be_secret_by_its_name(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize("name", ["key", "topic", "slot", "error", "pass_through"])
def test_ordinary_fields_are_not_secret(name: str) -> None:
    assert not names_secret(name)
