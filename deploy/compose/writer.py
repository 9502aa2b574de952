"""The shop of docker-compose.yml: registers users and places orders, each in one transaction with its event.

In: the connection string in /run/secrets/shop-dsn; how many transactions to make, as the only argument (without it: on
and on, two a second). Out: rows of `users`, `orders` and, through `outbox_emit`, of the outbox.
"""

from __future__ import annotations

import itertools
import random
import signal
import sys
import time
from pathlib import Path

import psycopg
from psycopg.types.json import Json

DSN = Path("/run/secrets/shop-dsn")
PAUSE_SECONDS = 0.5
NAMES = ("Ada", "Edsger", "Grace", "Barbara", "Jim", "Leslie")

EMIT = "SELECT outbox_emit(%s, %s, %s, %s)"


def register(shop: psycopg.Connection) -> int:
    """A new user and its event: both or neither."""
    name = random.choice(NAMES)
    with shop.transaction():
        (user,) = shop.execute("INSERT INTO users (name) VALUES (%s) RETURNING id", [name]).fetchone()
        shop.execute(EMIT, ["user", str(user), "UserRegistered", Json({"id": user, "name": name})])
    return user


def place_order(shop: psycopg.Connection, user: int) -> int:
    """A new order of this user and its event: both or neither."""
    total = random.randint(100, 9_999) / 100
    insert = "INSERT INTO orders (user_id, total) VALUES (%s, %s) RETURNING id"
    with shop.transaction():
        (order,) = shop.execute(insert, [user, total]).fetchone()
        event = Json({"id": order, "user": user, "total": total})
        shop.execute(EMIT, ["order", str(order), "OrderPlaced", event])
    return order


def show(line: str) -> None:
    """One line, in one piece and at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(transactions: int | None) -> None:
    """One user, then orders by the users so far, with a new user now and then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    users: list[int] = []
    with psycopg.connect(DSN.read_text(encoding="utf-8"), autocommit=True) as shop:
        for number in itertools.count() if transactions is None else range(transactions):
            if number % 4 == 0:
                users.append(register(shop))
                show(f"committed user {users[-1]}")
            else:
                show(f"committed order {place_order(shop, random.choice(users))}")
            if transactions is None:
                time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
