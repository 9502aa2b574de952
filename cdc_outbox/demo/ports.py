"""TCP ports for temporary servers on 127.0.0.1.

In: nothing. Out: a port number that was free a moment ago. Never: a guarantee that it is still free; the bind can fail.
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
"""Linux's default for the first port of outgoing connections."""

_ATTEMPTS: Final = 50
"""Ports to try: on a usable machine, this many consecutive ports are never all taken."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free at this moment.

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
