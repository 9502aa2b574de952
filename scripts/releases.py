"""The lines of pages that name a way to install: as they are before a release, and as they are after one.

In: `cdc_outbox.IMAGE`, which is empty before the first release. Out: the text of a page with the lines that apply.
Never: a line that is true only one day. Set the variable, run `make reference`, and all of them change together.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cdc_outbox

ROOT: Final = Path(__file__).parents[1]

LINES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "README.md": (
        (
            """\
Not released yet: install from a checkout with `pip install .` or `pipx install .`, try it without an
installation by `uvx --from . cdc-outbox --help`, or build the image `cdc-outbox:local` with `deploy/build-image.sh`.
""",
            """\
Install with `pip install cdc-outbox` or `pipx install cdc-outbox`, try it without an installation
by `uvx cdc-outbox --help`, or run the image `{image}`.
""",
        ),
    ),
    "docs/how-to/container.md": (
        ("There is no published image yet. By hand:", "The published image is `{image}`. By hand:"),
        ("      cdc-outbox:local\n", "      {image}\n"),
        ("`docker run --rm … cdc-outbox:local config show`", "`docker run --rm … {image} config show`"),
    ),
    "docs/how-to/deploy-on-kubernetes.md": (
        (
            "[build it](container.md) as `cdc-outbox:local`, tag it for your registry, and push it.",
            "`{image}`, or a copy of it.",
        ),
    ),
    "docs/how-to/deploy-with-helm.md": (
        ("[build it](container.md), tag it for your registry, and push it.", "`{image}`, or a copy of it."),
    ),
    "docs/how-to/emit-from-psycopg.md": (
        ("`pip install .` in a checkout brings the relay along", "`pip install cdc-outbox` brings the relay along"),
    ),
    "docs/how-to/macos.md": (
        ("    pip install '.[demo,testing]'      # in a checkout\n", "    pip install 'cdc-outbox[demo,testing]'\n"),
    ),
    "docs/how-to/native.md": (
        (
            "    pip install . ./native      # in a checkout; needs a C compiler\n\nThe image has it.",
            "    pip install 'cdc-outbox[native]'\n\nThere are wheels for Linux and macOS, x86_64 and arm64. The image has it.",
        ),
    ),
    "docs/how-to/register-events.md": (
        (
            "pip install ./packaging/cdc-outbox-app     # in a checkout; or the wheel cdc_outbox_app that make dist makes",
            "pip install cdc-outbox-app",
        ),
    ),
    "docs/how-to/systemd.md": (
        ("    /opt/cdc-outbox/bin/pip install .\n", "    /opt/cdc-outbox/bin/pip install cdc-outbox\n"),
    ),
    "docs/how-to/test-events.md": (
        ("pip install '.[testing]'    # in a checkout", "pip install 'cdc-outbox[testing]'"),
        ("installs `'./packaging/cdc-outbox-app[testing]'`", "installs `cdc-outbox-app[testing]`"),
    ),
    "docs/how-to/trace-events.md": (
        ("    pip install '.[otel]'       # in a checkout\n", "    pip install 'cdc-outbox[otel]'\n"),
        ("`pip install '.[otel]'` in a checkout.", "`pip install 'cdc-outbox[otel]'`."),
    ),
    "docs/troubleshooting.md": (
        ("`pip install '.[otel]'` in a checkout.", "`pip install 'cdc-outbox[otel]'`."),
        ("`pip install '.[demo]'` in a checkout brings", "`pip install 'cdc-outbox[demo]'` brings"),
    ),
    "docs/tutorial.md": ((" && pip install .\n", " && pip install cdc-outbox\n"),),
    "native/README.md": (("`pip install . ./native` in a checkout", "`pip install 'cdc-outbox[native]'`"),),
}
"""By page: each line before a release, and after one. Each of the two stands nowhere else in its page."""


def page(name: str) -> str:
    """The text of a page, with the lines that apply. Raises ValueError for a page that has lost one of its lines."""
    image = f"{cdc_outbox.IMAGE}:{cdc_outbox.__version__}"
    text = (ROOT / name).read_text(encoding="utf-8")
    for before, after in LINES[name]:
        either = "|".join([re.escape(before), re.escape(after).replace(re.escape("{image}"), _ANY_IMAGE)])
        wanted = after.replace("{image}", image) if cdc_outbox.IMAGE else before
        text, found = re.subn(either, wanted.replace("\\", r"\\"), text)
        if found != 1:
            raise ValueError(f"{name} has {found} times {before!r}, or its line after a release: it must have it once")
    return text


_ANY_IMAGE: Final = r"[^`\s]+:[^`\s]+"

FILES: Final[dict[str, Callable[[], str]]] = {name: functools.partial(page, name) for name in LINES}
"""By path from the root: what makes it, as in scripts/generate.py."""
