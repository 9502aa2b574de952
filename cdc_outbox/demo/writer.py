"""The shop: registers users, places orders, takes money, ships; each change in one transaction with its event.

In: a connection string of a role that may only use its own tables and emit events. Out: rows, events, a `Tally` of both.
Never: an event outside the transaction of its business change, two writers for one user or order.

Some payments are declined after everything was written: the transaction is rolled back, and its event must never be seen.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, LiteralString

import psycopg

from cdc_outbox.demo.tally import Event, Tally, digest_of
from cdc_outbox.records.templates import TopicTemplate

CLERKS: Final = 3
"""Connections that write at the same time, so that transactions overlap."""

DECLINED: Final = 0.08
"""Fraction of orders whose payment is declined at the last moment."""

OPEN_ORDERS: Final = 20
"""A clerk's orders between placed and shipped, at most."""

_NAMES: Final = ("Ada", "Edsger", "Grace", "Barbara", "Jürgen", "Zoë", "李娜", "Øyvind")

_EMIT: Final = "SELECT outbox_emit(%s, %s, %s, %s)"

_TOPIC: Final = TopicTemplate("outbox.event.{aggregatetype}")

Row = tuple[object, ...]

Done = Callable[[], object]
"""Called after a transaction is committed: updates the clerk's list of orders."""


class CardDeclined(Exception):
    """Why a transaction is rolled back."""


class Shop:
    """Some clerks. `rate`: transactions a second, all clerks together."""

    def __init__(self, dsn: str, tally: Tally, rate: float) -> None:
        self._closing = threading.Event()
        self._clerks = [_Clerk(dsn, tally, CLERKS / rate, self._closing) for _ in range(CLERKS)]

    @property
    def error(self) -> Exception | None:
        """The error that ended a clerk's thread early."""
        return next((clerk.error for clerk in self._clerks if clerk.error), None)

    def open(self) -> None:
        """Begin to write."""
        for clerk in self._clerks:
            clerk.start()

    def close(self) -> None:
        """Finish the transactions that are open, and write no more."""
        self._closing.set()
        for clerk in self._clerks:
            if clerk.is_alive():
                clerk.join()


class _Clerk(threading.Thread):
    """One connection's work, and the only one to write about its users and orders."""

    def __init__(self, dsn: str, tally: Tally, pause: float, closing: threading.Event) -> None:
        super().__init__(name="clerk", daemon=True)
        self.error: Exception | None = None
        self._dsn = dsn
        self._tally = tally
        self._pause = pause
        self._closing = closing
        self._chance = random.SystemRandom()
        self._users: list[int] = []
        self._orders: list[tuple[int, str]] = []
        self._written: list[Event] = []

    def run(self) -> None:
        """Work until the shop closes."""
        try:
            with psycopg.connect(self._dsn, autocommit=True, application_name="shop") as shop:
                due = time.monotonic()
                while not self._closing.wait(max(0.0, due - time.monotonic())):
                    with suppress(CardDeclined):
                        self._serve(shop)
                    due = max(due + self._pause, time.monotonic() - 1.0)
        except psycopg.Error as error:
            self.error = error

    def _serve(self, shop: psycopg.Connection[Row]) -> None:
        """Run one transaction, and note its events as committed or rolled back."""
        self._written = []
        try:
            with shop.transaction():
                done = self._some_business(shop)
        except CardDeclined:
            self._tally.note_rollback(self._written)
            raise
        self._tally.note_commit(self._written)
        done()

    def _some_business(self, shop: psycopg.Connection[Row]) -> Done:
        if not self._users or self._chance.random() < 0.1:
            return self._register(shop)
        if len(self._orders) >= OPEN_ORDERS or (self._orders and self._chance.random() < 0.6):
            return self._go_on(shop)
        return self._place_order(shop)

    def _register(self, shop: psycopg.Connection[Row]) -> Done:
        """A new user and a first order: two events in one transaction."""
        name = self._chance.choice(_NAMES)
        user = _new_id(shop, "INSERT INTO users (name) VALUES (%s) RETURNING id", [name])
        self._emit(shop, "user", user, "UserRegistered", {"id": user, "name": name})
        order = self._order(shop, user)

        def done() -> None:
            self._users.append(user)
            self._orders.append((order, "placed"))

        return done

    def _place_order(self, shop: psycopg.Connection[Row]) -> Done:
        order = self._order(shop, self._chance.choice(self._users))
        if self._chance.random() < DECLINED:
            raise CardDeclined
        return lambda: self._orders.append((order, "placed"))

    def _order(self, shop: psycopg.Connection[Row], user: int) -> int:
        total = self._chance.randrange(100, 50_000) / 100
        query = "INSERT INTO orders (user_id, total, state) VALUES (%s, %s, 'placed') RETURNING id"
        order = _new_id(shop, query, [user, total])
        self._emit(shop, "order", order, "OrderPlaced", {"id": order, "user": user, "total": total})
        return order

    def _go_on(self, shop: psycopg.Connection[Row]) -> Done:
        """Payment or shipment of an order."""
        which = self._chance.randrange(len(self._orders))
        order, state = self._orders[which]
        following = "paid" if state == "placed" else "shipped"
        shop.execute("UPDATE orders SET state = %s WHERE id = %s", [following, order])
        self._emit(shop, "order", order, f"Order{following.capitalize()}", {"id": order})

        def done() -> None:
            if following == "shipped":
                del self._orders[which]
            else:
                self._orders[which] = (order, following)

        return done

    def _emit(self, shop: psycopg.Connection[Row], kind: str, key: int, event: str, facts: dict[str, object]) -> None:
        """The whole integration: one function call inside the transaction."""
        payload = json.dumps(facts, ensure_ascii=False)
        row = shop.execute(_EMIT, [kind, str(key), event, payload]).fetchone()
        assert row is not None, "SELECT of a function that returns no set gives one row"
        topic = _TOPIC.fill((kind.encode(),))
        self._written.append(Event(str(row[0]), topic, str(key), event, digest_of(payload.encode())))


def _new_id(shop: psycopg.Connection[Row], query: LiteralString, values: list[object]) -> int:
    row = shop.execute(query, values).fetchone()
    assert row is not None, "INSERT … RETURNING of one row gives one row"
    return int(str(row[0]))
