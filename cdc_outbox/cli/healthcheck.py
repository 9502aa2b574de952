"""`cdc-outbox healthcheck`: GET /livez of a relay on this machine; exit 0 when it is alive, else 1.

In: the address that `run` listens on. Out: one line, and the exit code that Docker's HEALTHCHECK understands (0 or 1).
Never: an import of a driver, a client or the logging; it runs every few seconds beside the relay.
"""

from __future__ import annotations

import http.client
from typing import Final

import click

from cdc_outbox.cli.options import CONTEXT, option
from cdc_outbox.config.value_types import address_to_ask

TIMEOUT_SECONDS: Final = 3.0
"""The answer is in memory and takes a millisecond; if a relay takes longer than this, its loop is stuck too."""


@click.command(name="healthcheck", context_settings=CONTEXT)
@option("http")
def command(http: str) -> int:
    """Check that a running relay is alive (GET /livez): exit code 0 or 1.

    Made for container health checks: it starts fast and needs nothing but the relay's --http address.
    """
    if http == "off":
        click.echo("--http is off: no relay to query", err=True)
        return 1
    host, port = address_to_ask(http)
    try:
        status, text = _ask(host, port)
    except (OSError, UnicodeError, http_client_error) as error:  # UnicodeError: a host that no DNS name can be
        click.echo(f"no answer from {http}: {error}", err=True)
        return 1
    click.echo(text, err=status != 200)
    return 0 if status == 200 else 1


http_client_error: Final = http.client.HTTPException


def _ask(host: str, port: int) -> tuple[int, str]:
    """Status code and the first line of the answer."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        return response.status, response.read(200).decode("ascii", "replace").partition("\n")[0]
    finally:
        connection.close()
