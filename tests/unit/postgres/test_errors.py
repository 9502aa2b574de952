"""Reports of the server become the errors of `cdc_outbox.errors`, by SQLSTATE."""

from __future__ import annotations

import psycopg.errors
import pytest

from cdc_outbox.errors import Unreachable
from cdc_outbox.postgres.errors import from_sqlstate

ENDED = ("25P03", "25P04")
"""SQLSTATEs of the two session timeouts outside class 57."""

OPERATOR = sorted(
    {
        error.sqlstate
        for error in vars(psycopg.errors).values()
        if isinstance(error, type) and str(getattr(error, "sqlstate", "")).startswith("57")
    }
)


@pytest.mark.parametrize("sqlstate", [*OPERATOR, *ENDED])
def test_a_session_that_an_operator_or_a_timeout_ends_is_opened_again(sqlstate: str) -> None:
    error = from_sqlstate(sqlstate, "terminating connection")

    assert isinstance(error, Unreachable)
    assert error.exit_code == 69


def test_every_code_of_the_class_is_known() -> None:
    assert {"57014", "57P01", "57P03", "57P05"} <= set(OPERATOR)
