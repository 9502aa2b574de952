"""`cdc-outbox-app schema export`: documents of the registered events of an application, on stdout.

In: `package.module:outbox`. Out: JSON Schema or an AsyncAPI 3 document.
Never: a connection; a dependency: applications install this without the relay.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from .contract import asyncapi, dump, json_schemas
from .outbox import Outbox


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0, or 2 for an outbox that cannot be imported."""
    parser = argparse.ArgumentParser(
        prog="cdc-outbox-app", description="Documents of an application's registered events."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    schema = commands.add_parser("schema", help="schemas of registered events").add_subparsers(
        required=True, metavar="COMMAND"
    )
    export = schema.add_parser("export", help="print JSON Schema, or an AsyncAPI 3 document")
    export.add_argument("outbox", metavar="MODULE:NAME", help="the Outbox, for example shop.events:outbox")
    export.add_argument("--format", choices=["json-schema", "asyncapi"], default="json-schema")
    export.add_argument("--title", default="Events", help="of the AsyncAPI document (default: %(default)s)")
    export.add_argument("--api-version", default="1.0.0", help="of the AsyncAPI document (default: %(default)s)")
    export.add_argument(
        "--topic", default="outbox.event.{aggregatetype}", help="as for cdc-outbox run (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        outbox = _load(options.outbox)
    except Exception as error:  # noqa: BLE001 - the import runs the application's own code
        print(f"cdc-outbox-app: {options.outbox}: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if options.format == "asyncapi":
        document = asyncapi(outbox, title=options.title, version=options.api_version, topic=options.topic)
    else:
        document = json_schemas(outbox)
    sys.stdout.write(dump(document))
    return 0


def _load(text: str) -> Outbox:
    """Import the outbox; modules of the working directory are found, as by `python -m`."""
    module, _, name = text.partition(":")
    if not name:
        raise ValueError("write MODULE:NAME, for example shop.events:outbox")
    if "/" in module or module.endswith(".py"):
        module = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"a module and not a file: {module}:{name}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Outbox):
        raise ValueError(f"{name} is not an Outbox")  # noqa: TRY004 - one kind of error for a wrong argument
    if not found.events():
        raise ValueError(f"{name} has no registered event: decorate a class with @{name}.event, and import its module")
    return found


if __name__ == "__main__":
    sys.exit(main())
