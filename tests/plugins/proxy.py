"""A proxy that breaks connections on command, for fault tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """`proxy("127.0.0.1:5432")`, or `proxy(database.dsn)`: a proxy in front of that. As many as the test wants."""
    with contextlib.ExitStack() as proxies:
        yield lambda target: proxies.enter_context(Proxy(_address(target)))


def _address(target: str) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if colon and port.isdigit() and "=" not in target:
        return host, int(port)
    conninfo = psycopg.conninfo.conninfo_to_dict(target)
    return str(conninfo["host"]), int(conninfo["port"] or 5432)
