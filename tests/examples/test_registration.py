"""examples/registration, whole: real processes, real SMTP, a relay that is killed, and every table looked at afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.binaries import find_binaries
from cdc_outbox.errors import ConfigurationError
from examples.registration.__main__ import judge, play
from examples.registration.stage import Stage, address
from tests.plugins.absence import absent

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(300)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    try:
        find_binaries()
    except ConfigurationError as error:
        absent(str(error))
    with Stage() as stage:
        yield stage


def test_every_registration_has_each_effect_once_whatever_goes_wrong(stage: Stage) -> None:
    names = play(stage)

    assert names == ["Ada", "Edsger", "Grace"]
    users = dict(stage.query("web", "SELECT name, id FROM users ORDER BY id"))
    assert list(users) == names
    # e-mail: one each, Edsger's after two refusals
    assert sorted(mail["To"] for mail in stage.postbox.mails) == sorted(map(address, names))
    assert stage.postbox.refused == 2
    assert stage.service("mailer").log.count("failed, again in") == 2
    # the other two: one each, whatever the mailer had to wait for
    assert stage.query("profiles", "SELECT user_id, display_name FROM profiles ORDER BY 1") == [
        (user_id, name) for name, user_id in users.items()
    ]
    assert stage.query("rewards", "SELECT user_id, points FROM accounts ORDER BY 1") == [
        (user_id, 100) for user_id in users.values()
    ]
    # each event came twice at least, and each consumer has seen the second as such
    events = [str(event_id) for (event_id,) in stage.query("web", "SELECT id FROM outbox ORDER BY seq")]
    delivered = stage.record_ids()
    assert set(delivered) == set(events)
    assert all(delivered.count(event_id) >= 2 for event_id in events)
    for name in ("mailer", "profiles", "rewards"):
        log = stage.service(name).log
        assert [log.count(f"{event_id} done") for event_id in events] == [1, 1, 1]
        assert all(f"{event_id} was done before" in log for event_id in events)
    # the rolled-back registration had written its event: the sequence has moved on, and nothing came of it
    assert stage.query("web", "SELECT last_value, (SELECT count(*) FROM outbox) FROM outbox_seq_seq") == [(4, 3)]

    assert judge(stage, names)
    stage.query("profiles", "DELETE FROM profiles WHERE display_name = 'Grace'")
    assert not judge(stage, names), "a loss is not overlooked"


def test_a_mailer_killed_between_the_mail_server_and_the_commit_sends_the_mail_again_with_the_same_message_id(
    stage: Stage,
) -> None:
    mailer = stage.service("mailer")
    stage.postbox.before_answer = mailer.kill
    assert stage.register("Barbara").status == 201
    stage.wait_for("the kill", lambda: not mailer.running)
    assert stage.query("mailer", "SELECT FROM inbox") == [], "no claim without its commit"

    stage.postbox.before_answer = lambda: None
    mailer.start()
    stage.wait_for("the second mail", lambda: len(stage.postbox.sent_to(address("Barbara"))) == 2)

    first, second = stage.postbox.mails
    (event_id,) = stage.query("web", "SELECT id FROM outbox")[0]
    assert first["Message-ID"] == second["Message-ID"] == f"<{event_id}@registration.example>"
    stage.wait_for("the others", stage.all_consumed)
    assert stage.query("rewards", "SELECT points FROM accounts") == [(100,)]

    # while it is there: an address that does not exist holds nobody up
    stage.postbox.unknown.add(address("Nobody"))
    assert stage.register("Nobody").status == 201
    stage.wait_for("the record", lambda: len(stage.record_ids()) == 2)
    stage.wait_for("the mailer", stage.all_consumed)
    assert f"no mail to {address('Nobody')}" in mailer.log
    assert stage.postbox.sent_to(address("Nobody")) == []
