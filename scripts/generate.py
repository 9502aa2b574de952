"""Writes the files that are derived from the code alone: reference pages, the Kubernetes form of the alert rules, the Helm
chart's copies and schema, the manual page and completion, and the lines of pages that name an installation.

    python scripts/generate.py           write
    python scripts/generate.py --check   write nothing; print what is out of date, and end with 1

In: the commands, `settings.OPTIONS`, the errors, deploy/prometheus/rules.yml, deploy/grafana. Out: the files of `FILES`.
Never: a sentence that is not in the program, apart from each page's first paragraph.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

sys.path.insert(0, str(Path(__file__).parents[1]))
from cdc_outbox import cli, errors
from cdc_outbox.cli.options import CONTEXT
from cdc_outbox.config.options import Option
from cdc_outbox.config.settings import OPTIONS, PRESETS
from scripts import chart, manual, releases

ROOT: Final = Path(__file__).parents[1]

NOTE: Final = "<!-- Made by `make reference` from the code; a test compares. -->"


def exit_codes() -> str:
    """Each code, its meaning, and whether a restart helps."""
    meaning: dict[int, list[str]] = {
        0: ["Done. For `run`: stopped cleanly, and all that was delivered is confirmed."],
        1: ["A check failed, or a threshold was exceeded; or a question was not answered with yes."],
        2: ["Wrong usage: an unknown option, a value that cannot be read, two options that exclude each other."],
        cli.INTERRUPTED: ["Ctrl-C, in a command other than `run`."],
        cli.STDOUT_CLOSED: ["The reader of the output has closed it, as `head` does."],
    }
    for error in _errors(errors.CdcOutboxError):
        meant = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        if error is not errors.CdcOutboxError:
            meaning.setdefault(error.exit_code, []).append(meant)
    meaning[cli.BUG].append("An unexpected error: a bug. Please report it with the traceback.")
    helps = {69: "yes", 70: "perhaps", 75: "yes"}
    rows = [
        f"| {code} | {' '.join(meant)} | {helps.get(code, 'no') if code else ''} |"
        for code, meant in sorted(meaning.items())
    ]
    return _page(
        "Exit codes",
        "Those of all commands; between 64 and 78 they are those of sysexits(3). What is final at start (77, 78) is tried "
        "again with back-off once the relay has streamed, because passwords rotate and failovers pass.",
        ["| Code | Means | A restart helps |", "|---|---|---|", *rows],
    )


def _errors(error: type[errors.CdcOutboxError]) -> Iterator[type[errors.CdcOutboxError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _errors(kind)


def command_line() -> str:
    """Every command with its usage, and its own options; those of the configuration are named, and linked."""
    context = click.Context(cli.cli, info_name="cdc-outbox", **CONTEXT)
    lines = [f"{NOTE}", "", "# Commands", "", _paragraph(cli.cli), ""]
    lines += ["| Command | Does |", "|---|---|"]
    lines += [f"| [`{_name(each)}`](#{_anchor(_name(each))}) | {_summary(each)} |" for each in manual.commands(context)]
    for each in manual.commands(context):
        lines += ["", f"## {_name(each)}", "", _paragraph(each.command), *_usage(each), *_own(each), *_shared(each)]
    return "\n".join(lines) + "\n"


def _name(context: click.Context) -> str:
    return context.command_path.removeprefix("cdc-outbox ")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _summary(context: click.Context) -> str:
    return _cell(context.command.get_short_help_str(limit=200))


def _paragraph(command: click.Command) -> str:
    paragraphs = (command.help or "").replace("\b", "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _usage(context: click.Context) -> list[str]:
    return ["", f"    cdc-outbox {_name(context)} {' '.join(context.command.collect_usage_pieces(context))}"]


def _parameters(context: click.Context) -> list[click.Option]:
    return [
        each
        for each in context.command.params
        if isinstance(each, click.Option) and not each.hidden and each.name != "help"
    ]


def _own(context: click.Context) -> list[str]:
    """The options that only this command, or a few, have."""
    rows = [
        f"| {_flags(each)} | {_own_default(each, context)} | {_cell(each.help or '')} |"
        for each in _parameters(context)
        if not _is_setting(each)
    ]
    return ["", "| Option | Default | |", "|---|---|---|", *rows] if rows else []


def _shared(context: click.Context) -> list[str]:
    names = [each.name for each in _parameters(context) if _is_setting(each)]
    if not names:
        return []
    shared = {option.key: option for option in OPTIONS.values()}
    if len(names) == len(OPTIONS):
        return ["", "It takes every option of the [configuration](configuration.md)."]
    named = ", ".join(
        f"`{'-X' if shared[name].short_only else '--' + shared[name].name}`" for name in names if name in shared
    )
    return ["", f"From the [configuration](configuration.md) it takes {named}."]


def _is_setting(option: click.Option) -> bool:
    return hasattr(option, "setting")


def _flags(option: click.Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
    return flags if option.is_flag else f"{flags} {_metavar(option)}"


def _metavar(option: click.Option) -> str:
    context = click.Context(click.Command("x"))
    return _cell(option.make_metavar(context))


def _own_default(option: click.Option, context: click.Context) -> str:
    if option.required:
        return "required"
    extra = option.get_help_extra(context)
    return f"`{_cell(extra['default'])}`" if "default" in extra else ""


def configuration() -> str:
    """Every option: flag, variable, default, meaning, by section."""
    lines = []
    section = ""
    for option in OPTIONS.values():
        if option.section != section:
            section = option.section
            lines += ["", f"## {section}", "", "| Option | Variable | Default | |", "|---|---|---|---|"]
        lines.append(f"| {_spelled(option)} | {_variable(option)} | {_default(option)} | {_cell(option.help)} |")
    lines += [
        "",
        "## Presets",
        "",
        "`--columns` changes the defaults of other options:",
        "",
        "| Preset | Option | Default |",
    ]
    lines += ["|---|---|---|"]
    for preset, changed in PRESETS.items():
        lines += [f"| `{preset}` | `--{name}` | `{value}` |" for name, value in changed.items()]
    return _page(
        "Configuration",
        "Every option of `cdc-outbox run`; other commands take those that concern them, under the same names. A flag wins over "
        "an environment variable, that over the TOML file of `--config`, whose keys are the options' names. "
        "`cdc-outbox config example` prints such a file, `cdc-outbox config show` what applies and where it came from.",
        lines,
    )


def _spelled(option: Option) -> str:
    context = click.Context(cli.cli.get_command(click.Context(cli.cli), "run") or cli.cli, **CONTEXT)
    (found,) = [each for each in context.command.params if getattr(each, "setting", None) is option]
    assert isinstance(found, click.Option)
    return _flags(found)


def _variable(option: Option) -> str:
    if not option.in_environment:
        return "see there" if option.name == "kafka-property" else ""
    return f"`{option.variable}`"


def _default(option: Option) -> str:
    return "" if option.default is None else f"`{_cell(option.default)}`"


def _cell(text: str) -> str:
    """Text as a table holds it."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _page(title: str, first: str, lines: list[str]) -> str:
    return "\n".join([NOTE, "", f"# {title}", "", first, "", *"\n".join(lines).strip("\n").split("\n")]) + "\n"


def prometheus_rule() -> str:
    """The alert rules in the form that the Prometheus Operator reads."""
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    groups = rules[rules.index("groups:") :]
    head = """\
# Made by `make reference` from deploy/prometheus/rules.yml; a test compares.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: cdc-outbox
spec:
"""
    return head + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


def _copy(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


FILES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference/exit-codes.md": exit_codes,
    "docs/reference/cli.md": command_line,
    "docs/reference/configuration.md": configuration,
    "deploy/kubernetes/monitoring/prometheusrule.yaml": prometheus_rule,
    **releases.FILES,
    "deploy/helm/cdc-outbox/values.schema.json": chart.values_schema,
    "deploy/helm/cdc-outbox/files/rules.yml": functools.partial(_copy, "deploy/prometheus/rules.yml"),
    "deploy/helm/cdc-outbox/files/dashboard.json": functools.partial(_copy, "deploy/grafana/cdc-outbox.json"),
    "packaging/share/man/man1/cdc-outbox.1": manual.page,
    **{
        f"packaging/share/{place}": functools.partial(manual.completion, shell)
        for shell, place in manual.COMPLETIONS.items()
    },
}
"""By path from the root: what makes it."""


def main(arguments: list[str]) -> int:
    """Write, or check; gives the exit code."""
    stale = []
    for name, make in FILES.items():
        path, text = ROOT / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'out of date, run make reference' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
