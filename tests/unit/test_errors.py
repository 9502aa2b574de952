"""Each error says what happened, where, and what to do; its class decides the exit code."""

from __future__ import annotations

import pytest

from cdc_outbox import errors
from cdc_outbox.errors import CdcOutboxError

DOCUMENTED_EXIT_CODES = {
    errors.ConfigurationError: 78,
    errors.CannotConnect: 78,
    errors.StreamGap: 78,
    errors.AccessRefused: 77,
    errors.PoisonEvent: 65,
    errors.Unreachable: 69,
    errors.ConnectionLost: 69,
    errors.NotAccepting: 69,
    errors.CatalogFinding: 69,
    errors.SlotBusy: 75,
    errors.Undelivered: 75,
    errors.ProtocolError: 70,
}


def test_every_error_has_its_documented_exit_code() -> None:
    """Whoever adds one has to say here how the process ends."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CdcOutboxError)]
    assert {kind: kind.exit_code for kind in classes if kind is not CdcOutboxError} == DOCUMENTED_EXIT_CODES


def test_an_error_without_a_class_of_its_own_is_a_bug() -> None:
    assert CdcOutboxError("…").exit_code == 70


@pytest.mark.parametrize("kind", DOCUMENTED_EXIT_CODES)
def test_the_tree_in_the_module_names_every_error_with_its_code(kind: type[CdcOutboxError]) -> None:
    [line] = [line for line in (errors.__doc__ or "").splitlines() if f"─ {kind.__name__} " in line]
    assert f" {kind.exit_code} " in line


def test_a_lost_connection_is_met_wherever_an_unreachable_server_is() -> None:
    """So that one rule, try again, holds for both."""
    assert issubclass(errors.ConnectionLost, errors.Unreachable)


def test_the_text_names_the_place() -> None:
    error = errors.PoisonEvent("the headers are no JSON object", cure="…", table="public.outbox", id="7", size=12)
    assert str(error) == "the headers are no JSON object (table public.outbox, id 7, size 12)"


def test_the_text_without_a_place_is_the_sentence() -> None:
    assert str(errors.ConfigurationError("wal_level is replica", cure="ALTER SYSTEM …")) == "wal_level is replica"


def test_a_place_that_is_not_known_is_left_out_and_zero_is_a_place() -> None:
    error = errors.ProtocolError("malformed", lsn="0/1", key=None, partition=0)
    assert error.where == {"lsn": "0/1", "partition": 0}
    assert str(error) == "malformed (lsn 0/1, partition 0)"


def test_message_and_cure_are_separate() -> None:
    error = errors.SlotBusy("slot s is in use", cure="wait, or --slot", slot="s")
    assert (error.message, error.cure, error.where) == ("slot s is in use", "wait, or --slot", {"slot": "s"})
    assert error.args == ("slot s is in use",)
