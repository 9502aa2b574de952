"""The report of a check: one line for each finding, with commands that cure it.

In: names of checks, messages, cures; CdcOutboxErrors, which become findings. Out: `Report`, as text and as JSON.
Never: a secret (errors hold none, and the command scrubs its output), an end at the first failure.

JSON, stable: `ok` (nothing failed), `counts` by status, and `checks`, a list of `check`, `status`, `what`, `cures` (a list).
Checks have the form `part.thing`; a check appears once for each table or topic.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.postgres.errors import translated

Status: TypeAlias = Literal["ok", "warn", "fail", "not-checked"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `cures`: what to type; empty if nothing is wrong."""

    check: str
    status: Status
    message: str
    cures: tuple[str, ...] = ()

    def document(self) -> dict[str, str | list[str]]:
        """As JSON is to have it."""
        return {"check": self.check, "status": self.status, "what": self.message, "cures": list(self.cures)}


@dataclass(slots=True)
class Report:
    """The findings, in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)
    complete: Callable[[str], str] = str
    """Completes the commands of a cure."""

    def ok(self, check: str, message: str) -> None:
        """Report that the check passed."""
        self.findings.append(Finding(check, "ok", message))

    def warn(self, check: str, message: str, *cures: str) -> None:
        """Report a risk: the relay runs, and may fail later."""
        self.findings.append(Finding(check, "warn", message, tuple(map(self.complete, cures))))

    def fail(self, check: str, message: str, *cures: str) -> None:
        """Report a failure: the relay would not run, or would not keep its guarantees."""
        self.findings.append(Finding(check, "fail", message, tuple(map(self.complete, cures))))

    def not_checked(self, why: str, *checks: str) -> None:
        """Report that these checks could not be made."""
        self.findings += [Finding(check, "not-checked", f"not checked: {why}") for check in checks]

    @contextlib.contextmanager
    def judging(self, check: str, *cures: str) -> Iterator[None]:
        """Report a CdcOutboxError or a database error of the block as this check's failure. `cures` replace the error's own
        cure, which does not know the platform.
        """
        try:
            with translated():
                yield
        except CdcOutboxError as error:
            self.fail_with(check, error, *cures)

    def fail_with(self, check: str, error: CdcOutboxError, *cures: str) -> None:
        """Report the error as this check's failure."""
        own = (error.cure,) if error.cure else ()
        self.fail(check, error.message, *(cures or own))

    def merge(self, subjects: Sequence[str], since: int) -> None:
        """Merge findings from number `since` on that differ only in the subject (a topic)."""
        groups: dict[tuple[object, ...], list[tuple[Finding, str]]] = {}
        for finding in self.findings[since:]:
            named = [each for each in subjects if re.search(rf"(?<![\w.-]){re.escape(each)}(?![\w-])", finding.message)]
            subject = max(named, key=len, default="")
            like = _without(finding.message, subject), *(_without(cure, subject) for cure in finding.cures)
            groups.setdefault((finding.check, finding.status, *like), []).append((finding, subject))
        self.findings[since:] = [_merged(group) for group in groups.values()]

    def count(self, status: Status) -> int:
        """Number of findings with this status."""
        return sum(finding.status == status for finding in self.findings)

    def passed(self, *, strict: bool = False) -> bool:
        """Whether nothing failed; `strict`: and there is no warning."""
        return not (self.count("fail") or (strict and self.count("warn")))

    def document(self) -> dict[str, object]:
        """As JSON is to have it."""
        return {
            "ok": self.passed(),
            "counts": {status: self.count(status) for status in STATUSES},
            "checks": [finding.document() for finding in self.findings],
        }


def _without(text: str, subject: str) -> str:
    return text.replace(subject, "…") if subject else text


def _merged(group: Sequence[tuple[Finding, str]]) -> Finding:
    """One finding for several subjects. A command in a cure becomes a loop over them."""
    finding, subject = group[0]
    if len(group) == 1 or not subject:
        return finding
    names = [each for _, each in group]
    cures = (
        f"for topic in {' '.join(names)}; do {cure.replace(subject, '$topic')}; done"
        if cure.startswith("kafka-")
        else _without(cure, subject)
        for cure in finding.cures
    )
    message = f"{len(names)} topics: {_without(finding.message, subject)}: {', '.join(names)}"
    return Finding(finding.check, finding.status, message, tuple(cures))


_COLORS: Final[dict[Status, str]] = {"ok": "32", "warn": "33", "fail": "1;31", "not-checked": "2"}
"""SGR parameters (ECMA-48): green, yellow, bold red, faint."""

_MARKS: Final[dict[Status, str]] = {"ok": "ok", "warn": "warn", "fail": "fail", "not-checked": "-"}

_MARK_WIDTH: Final = max(map(len, _MARKS.values()))

_COUNTED: Final[dict[Status, str]] = {
    "ok": "ok",
    "warn": "warnings",
    "fail": "failed",
    "not-checked": "not checked",
}


def lines(report: Report, *, colors: bool) -> Iterator[str]:
    """The report for a person: a line for each finding, its cures under it; at the end, how many there are of each kind."""
    width = max((len(finding.check) for finding in report.findings), default=0)
    for finding in report.findings:
        mark = _colored(_MARKS[finding.status].ljust(_MARK_WIDTH), _COLORS[finding.status] if colors else "")
        yield f"{mark}  {finding.check:<{width}}  {_one_line(finding.message)}"
        yield from _cure_lines(finding.cures)
    counts = ((report.count(status), _COUNTED[status]) for status in STATUSES)
    yield ", ".join(f"{count} {text}" for count, text in counts if count)


def _cure_lines(cures: Sequence[str]) -> Iterator[str]:
    for cure in cures:
        yield f"{'':<{_MARK_WIDTH}}  -> {_one_line(cure)}"


def _one_line(text: str) -> str:
    """A server's message may contain line breaks or escape sequences."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)


def _colored(text: str, parameters: str) -> str:
    return f"\x1b[{parameters}m{text}\x1b[0m" if parameters else text
