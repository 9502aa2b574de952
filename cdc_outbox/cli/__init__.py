"""`cdc-outbox`: the commands by name, and the one place where an error becomes a message and an exit code.

In: the command line. Out: the process's exit code (defined in `errors`). stdout is data, stderr is logs.
Never: the import of a module that the command does not need (`--help` and `healthcheck` are fast), a traceback for an
expected error, a secret in the output.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import click

from cdc_outbox.cli.options import CONTEXT
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.shutdown import Stopped

COMMANDS: Final = {
    "run": "Relay events from PostgreSQL to Kafka until stopped.",
    "sql": "Print (or apply) the SQL of the outbox table, its roles and its publication.",
    "status": "Show the status of the relay and its slot: state, lag, kept WAL.",
    "slot": "Create, drop, replace or show the replication slot.",
    "check": "Check everything that run needs, and show how to correct it.",
    "prune": "Delete old delivered rows.",
    "replay": "Send rows of the table again.",
    "tail": "Print events as JSON lines, without Kafka and without moving the slot.",
    "emit": "Write one event, for try-outs and smoke tests.",
    "explain": "Explain an error code.",
    "config": "Show the configuration and its origins; print an example file.",
    "demo": "Run a demonstration on embedded servers.",
    "healthcheck": "Check that a running relay is alive: for container health checks.",
}
"""Summaries by command. Each command is `command` in the module of its name; with the summaries here, --help imports none."""

ALIASES: Final = {"doctor": "check"}
"""Aliases, which help does not list."""

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""

STDOUT_CLOSED: Final = 141
"""128 + SIGPIPE: the exit code of other tools when the reader of their output has closed the pipe."""

BUG: Final = 70
"""sysexits EX_SOFTWARE."""


class Commands(click.Group):
    """The group. A command's module is imported when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands whose module exists."""
        return [name for name in COMMANDS if importlib.util.find_spec(f"{__name__}.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names and summaries without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Distinguish a closed stdout from a broken connection: click would end both silently."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            if _stdout_is_closed():
                sys.exit(STDOUT_CLOSED)
            raise ConnectionError(*error.args) from error

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run one command line and exit."""
        extra |= {"prog_name": "cdc-outbox", "standalone_mode": False}
        code = exit_code(lambda: super(Commands, self).main(*args, **extra))
        sys.exit(_flushed(code))


def exit_code(call: Callable[[], object]) -> int:
    """Call the function; report its error on stderr. A command returns None for success, or its exit code."""
    try:
        result = call()
    except CdcOutboxError as error:
        return _report(error)
    except click.ClickException as error:
        return _report_usage(error)
    except (KeyboardInterrupt, Stopped, click.Abort) as error:
        interrupted = not isinstance(error, click.Abort) or isinstance(error.__cause__, KeyboardInterrupt)
        if not interrupted:
            _log("error: stopped before anything was done")
        return INTERRUPTED if interrupted else 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:  # noqa: BLE001  # the last line of defence
        return _report_bug(error)
    return result if isinstance(result, int) else 0


def _report(error: CdcOutboxError) -> int:
    from cdc_outbox.config.redaction import scrub

    _log(scrub(f"error: {error} [{error.code}]" + (f"\ncure: {error.cure}" if error.cure else "")))
    return error.exit_code


def _report_usage(error: click.ClickException) -> int:
    """Print click's message, without a password that was given in the wrong place."""
    from io import StringIO

    from cdc_outbox.config.redaction import scrub

    text = StringIO()
    error.show(text)
    _log(scrub(text.getvalue().rstrip("\n")))
    return error.exit_code


def _report_bug(error: Exception) -> int:
    """A traceback, through the log if there is one by now. It has source lines and messages, never values of variables."""
    import traceback

    from cdc_outbox.config.redaction import scrub

    lines = scrub("".join(traceback.format_exception(error)).rstrip("\n"))
    message, cure = "this is a bug in cdc-outbox", "please report it with the traceback"
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        log = structlog.get_logger(__name__)
        log.error("stopped", error=f"{message}: {scrub(repr(error))}", cure=cure, exception=lines, exit_code=BUG)
    else:
        _log(f"{lines}\nerror: {message}\ncure: {cure}")
    return BUG


def _log(text: str) -> None:
    click.echo(text, err=True)


def _stdout_is_closed() -> bool:
    """Whether the reader of stdout has closed it."""
    import select

    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poller.poll(0))


def _flushed(code: int) -> int:
    """Flush stdout now: at the interpreter's end, a closed one would print an error of its own."""
    import os

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STDOUT_CLOSED
    return code


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import platform

    from cdc_outbox import __version__
    from cdc_outbox.kafka import native
    from cdc_outbox.kafka.properties import librdkafka_version
    from cdc_outbox.postgres.conninfo import libpq_version

    click.echo(
        f"cdc-outbox {__version__} (Python {platform.python_version()}, "
        f"librdkafka {librdkafka_version()}, libpq {libpq_version()}, native plane {native.version() or 'not available'})"
    )
    ctx.exit()


@click.group(cls=Commands, context_settings=CONTEXT)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    show_default=False,
    help="Print the versions of cdc-outbox, Python, librdkafka, libpq and the native plane.",
)
def cli() -> None:
    """Insert a row in your transaction, get a Kafka record.

    Options may be set by flag, by environment variable (CDC_OUTBOX_...), or in a TOML file (--config), in this order of
    precedence.
    """


def _open_missing_streams() -> None:
    """Replace a closed stdin, stdout or stderr by /dev/null: otherwise a connection would get its descriptor, and a
    library's output would be written into the connection.
    """
    import os

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - a descriptor, for good


def main() -> NoReturn:
    """The console script. Hides passwords in the process list before anything else happens."""
    from cdc_outbox.cli.argv import hide_secrets

    hide_secrets(sys.argv)
    _open_missing_streams()
    cli.main()
