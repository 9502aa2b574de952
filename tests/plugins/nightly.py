"""Repeated cases of one test: the first in each run, the others at night."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable


def others_nightly(cases: Iterable[Any]) -> list[Any]:
    """Parameters of a test or fixture: all but the first are marked nightly. Let the first be the most general case."""
    first, *others = cases
    return [first, *(pytest.param(each, marks=pytest.mark.nightly) for each in others)]
