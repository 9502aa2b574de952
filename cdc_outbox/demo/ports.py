"""TCP ports for servers that come and go on 127.0.0.1.

In: nothing. Out: a port number that was free a moment ago. Never: a promise that it still is; whoever binds it looks.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Final

from cdc_outbox.errors import ConfigurationError

_LOWEST_PORT: Final = 15_000
_OUTGOING_PORTS: Final = 32_768
"""Where Linux begins to number outgoing connections, unless told otherwise."""

_ATTEMPTS: Final = 50
"""So many ports in a row are never taken on a machine that has work for us."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment.

    Below the kernel's range for outgoing connections: a port of that range can be taken by a client while the server
    restarts, and a client that tries it again and again ends up connected to itself.
    """
    choice = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = choice.randrange(_LOWEST_PORT, _first_outgoing_port())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigurationError(
        "No free TCP port on 127.0.0.1", code="demo", cure="stop some of the programs that listen there"
    )


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except FileNotFoundError:
        return _OUTGOING_PORTS
    return first if first > _LOWEST_PORT else _OUTGOING_PORTS
