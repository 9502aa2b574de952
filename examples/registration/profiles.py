"""Creates a profile for each registered user, in a database of its own."""

from __future__ import annotations

from examples.registration.consumer import Connection, Event, consume


def user_registered(connection: Connection, event: Event) -> None:
    """A second profile of one user would be refused: without the claim, every further delivery would fail."""
    connection.execute(
        "INSERT INTO profiles (user_id, display_name) VALUES (%s, %s)", [event.data["id"], event.data["name"]]
    )


if __name__ == "__main__":
    consume("profiles", {"UserRegistered": user_registered})
