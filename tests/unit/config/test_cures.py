"""A cure's command has the options without which it would fail."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_outbox.config.cures import complete
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import Secret

CURE = "nothing is lost: cdc-outbox slot recover, or a new start"


def settings(**chosen: Any) -> Settings:
    return Settings(dsn=Secret.dsn(lambda: ""), brokers="kafka:9092", **chosen)


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        ({}, ""),
        ({"on_poison": "skip"}, " --on-poison skip"),
        (
            {"on_poison": "dead-letter", "dead_letter_topic": "dead"},
            " --on-poison dead-letter --dead-letter-topic dead",
        ),
        ({"slot": "other"}, " --slot other"),
        ({"slot": "other", "on_poison": "skip"}, " --slot other --on-poison skip"),
    ],
)
def test_the_command_has_the_slot_and_the_policy_that_are_not_the_default(chosen: dict[str, Any], options: str) -> None:
    found = complete(CURE, settings(**chosen))
    assert found == f"nothing is lost: cdc-outbox slot recover{options}, or a new start"


def test_a_slot_that_the_cure_names_is_named_once() -> None:
    found = complete("cdc-outbox slot recover --slot other", settings(slot="other", on_poison="skip"))
    assert found == "cdc-outbox slot recover --slot other --on-poison skip"


def test_any_other_cure_is_unchanged() -> None:
    assert complete("cdc-outbox slot status", settings(on_poison="skip")) == "cdc-outbox slot status"


@pytest.mark.parametrize("cure", [CURE, "cdc-outbox slot recover --slot other"])
def test_a_complete_cure_stays_as_it_is(cure: str) -> None:
    chosen = settings(slot="other", on_poison="dead-letter", dead_letter_topic="dead")
    once = complete(cure, chosen)
    assert complete(once, chosen) == once
