"""Opening a connection, without a server: every failure reaches the caller, also one that the driver does not foresee."""

from __future__ import annotations

import pytest

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.postgres import connect
from cdc_outbox.postgres.conninfo import session_conninfo
from cdc_outbox.shutdown import Stop


@pytest.mark.timeout(10)
@pytest.mark.parametrize("host", ["db..example", ".db.example", "a" * 64 + ".example", "a.example,b..example"])
def test_a_host_that_no_dns_name_can_be_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect.open_session(session_conninfo(f"host={host} dbname=shop"), Stop())
    assert refused.value.code == "dsn-invalid"


@pytest.mark.timeout(10)
def test_a_host_of_the_environment_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "\udcff")
    with pytest.raises(ConfigurationError):
        connect.open_session(session_conninfo("dbname=shop"), Stop())


@pytest.mark.timeout(10)
def test_an_error_that_nothing_foresees_is_raised_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_conninfo: str) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(connect, "_open", fail)
    with pytest.raises(RuntimeError, match="unforeseen"):
        connect.open_session("host=127.0.0.1", Stop())
