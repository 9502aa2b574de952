"""A server whose making is interrupted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cdc_outbox.demo import postgres
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.errors import ConfigurationError
from tests.plugins.absence import absent


def test_ctrl_c_while_the_cluster_is_made_leaves_no_folder_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        server = EmbeddedPostgres()
    except ConfigurationError as error:
        absent(str(error))
    seen: list[Path] = []

    def interrupted(*_arguments: object, cwd: Path, **_options: Any) -> NoReturn:
        seen.append(cwd)
        assert (cwd / "password").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    assert postgres.subprocess is subprocess
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert len(seen) == 1
    assert not seen[0].exists()
