"""The example, from the first registration to the last duplicate: `python -m examples.registration`.

Prints what is done and what came of it. The exit code is 0 if each registered user got one mail, one profile and
one credit, and no other address did.
"""

from __future__ import annotations

import sys

from examples.registration.rewards import WELCOME_POINTS
from examples.registration.stage import Stage, address


def show(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def play(stage: Stage) -> list[str]:
    """Plays the story. Returns the names of the registered users."""
    show("Ada registers.")
    assert stage.register("Ada").status == 201
    stage.wait_for("Ada's mail", lambda: stage.postbox.sent_to(address("Ada")))

    show("Edsger registers. His mailbox is busy: it refuses two attempts.")
    stage.postbox.refuse(address("Edsger"), 2)
    assert stage.register("Edsger").status == 201
    stage.wait_for("Edsger's mail", lambda: stage.postbox.sent_to(address("Edsger")))
    show(f"  the mail server has refused {stage.postbox.refused} times; the third attempt got through.")

    show(f"kill -9 {stage.relay.pid}: the relay is dead. Grace registers; the web API does not notice.")
    stage.relay.kill()
    assert stage.register("Grace").status == 201
    stage.relay.start()
    stage.wait_for("Grace's mail", lambda: stage.postbox.sent_to(address("Grace")))
    show("  the relay was started again, and Grace has her mail.")

    show("Ada registers once more. Her address is taken: the transaction rolls back, event included.")
    assert stage.register("Ada").status == 409
    stage.confirmed()
    show(f"  {len(stage.record_ids())} records in Kafka, still.")

    show("kill -9 again, and the slot put back to its beginning: as if the relay had died before each confirmation.")
    stage.relay.kill()
    stage.forget_confirmations()
    stage.relay.start()
    stage.wait_for("the duplicates", lambda: len(stage.record_ids()) >= 6)
    stage.wait_for("the consumers", stage.all_consumed)
    ids = stage.record_ids()
    show(f"  {len(ids)} records in Kafka, {len(set(ids))} different events; the consumers have seen them all.")
    return ["Ada", "Edsger", "Grace"]


def judge(stage: Stage, names: list[str]) -> bool:
    """Print what each user has, and whether it is right."""
    users = dict(stage.query("web", "SELECT name, id FROM users"))
    profiles = [name for (name,) in stage.query("profiles", "SELECT display_name FROM profiles")]
    points = dict(stage.query("rewards", "SELECT user_id, points FROM accounts"))
    show(f"\n  {'':10}{'mails':>8}{'profiles':>10}{'points':>8}")
    right = sorted(users) == sorted(names) == sorted(profiles) and len(stage.postbox.mails) == len(points) == len(names)
    for name in names:
        mails, credit = len(stage.postbox.sent_to(address(name))), points.get(users[name], 0)
        show(f"  {name:10}{mails:>8}{profiles.count(name):>10}{credit:>8}")
        right = right and (mails, credit) == (1, WELCOME_POINTS)
    show("\nEach of them once." if right else "\nThat is not right.")
    return right


def main() -> int:
    """Set up, play, judge."""
    show("Starting PostgreSQL, Kafka (librdkafka's mock cluster), a mail server, the relay, and four services.")
    with Stage() as stage:
        return 0 if judge(stage, play(stage)) else 1


if __name__ == "__main__":
    sys.exit(main())
