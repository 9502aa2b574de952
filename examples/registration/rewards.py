"""Credits points for a registration, in a database of its own."""

from __future__ import annotations

from examples.registration.consumer import Connection, Event, consume

WELCOME_POINTS = 100


def user_registered(connection: Connection, event: Event) -> None:
    """An addition must not happen twice: afterwards it could not be detected."""
    connection.execute(
        "INSERT INTO accounts (user_id, points) VALUES (%s, %s)"
        " ON CONFLICT (user_id) DO UPDATE SET points = accounts.points + excluded.points",
        [event.data["id"], WELCOME_POINTS],
    )


if __name__ == "__main__":
    consume("rewards", {"UserRegistered": user_registered})
