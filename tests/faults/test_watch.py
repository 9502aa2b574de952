"""The watch of the catalog cannot look: a warning, and the stream goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import terminate_walsender
from tests.plugins.nightly import others_nightly
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually
from tests.servers import secure_postgres as postgres

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.outbox import Outbox
    from tests.plugins.secure import TlsOutbox
    from tests.servers.certificates import Authority
    from tests.servers.secure_postgres import SecurePostgres

LOOK_SECONDS = 50.0
"""The watch looks every 30 s, and rows that arrive make it look earlier."""


def goes_on(outbox: Outbox) -> None:
    """Events arrive, although nothing can be looked at."""
    written = outbox.add_all([{}, {}])
    eventually(lambda: set(written) <= set(ids(outbox.records())), "events arrive")


def test_a_side_connection_that_is_refused_is_a_warning_and_the_stream_goes_on(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    run = outbox.database.execute
    run("CREATE ROLE shut_out LOGIN REPLICATION PASSWORD 'shut-password'; GRANT SELECT ON outbox TO shut_out")
    relay = outbox.streaming(dsn=outbox.database.dsn_for("shut_out", "shut-password"))
    outbox.confirm()

    run(f"REVOKE CONNECT ON DATABASE {outbox.database.name} FROM PUBLIC")
    goes_on(outbox)
    warned = relay.wait_for_log("watch.failed", timeout=LOOK_SECONDS, level="warning")
    assert outbox.database.name in warned["error"]
    goes_on(outbox)

    run(f"GRANT CONNECT ON DATABASE {outbox.database.name} TO PUBLIC")
    outbox.confirm()
    assert relay.running
    assert len(relay.log_lines("streaming")) == 1
    relay.terminate()
    assert relay.wait() == 0


def test_a_file_with_the_dsn_that_is_away_for_a_moment_is_a_warning_and_the_stream_goes_on(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.create()
    outbox.create_slot()
    file = tmp_path / "dsn"
    file.write_text(outbox.database.dsn)
    relay = outbox.relay(database=None, env={"CDC_OUTBOX_DSN_FILE": str(file)})
    relay.wait_for_log("streaming")
    outbox.confirm()

    file.rename(tmp_path / "away")
    goes_on(outbox)
    warned = relay.wait_for_log("watch.failed", timeout=LOOK_SECONDS, level="warning")
    assert "CDC_OUTBOX_DSN_FILE" in warned["error"]
    goes_on(outbox)
    assert len(relay.log_lines("streaming")) == 1

    terminate_walsender(outbox.database)
    relay.wait_for_log("waiting", level="warning")
    (tmp_path / "away").rename(file)
    relay.wait_for_log("streaming", nth=2)
    outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0


DAMAGES: Final[dict[str, tuple[str, Callable[[Path, Authority], object]]]] = {
    "the CAs are others": ("ca.pem", lambda file, stranger: file.write_bytes(stranger.pem)),
    "the file of CAs is gone": ("ca.pem", lambda file, _: file.unlink()),
    "the certificate is of another authority": (
        "client.crt",
        lambda file, stranger: file.write_bytes(stranger.issue("relay.example", common_name=postgres.USER).chain),
    ),
    "the certificate is half written": ("client.crt", lambda file, _: file.write_bytes(file.read_bytes()[:700])),
    "the key is gone": ("client.key", lambda file, _: file.unlink()),
    "others can read the key": ("client.key", lambda file, _: file.chmod(0o644)),
}
"""What happens to a file of TLS while certificates are rotated."""


@pytest.mark.parametrize("damage", others_nightly(DAMAGES))
def test_a_file_of_tls_that_changes_is_a_warning_and_the_stream_goes_on(
    damage: str,
    tls_outbox: TlsOutbox,
    secure_postgres: SecurePostgres,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
) -> None:
    secure_postgres.show(authority.issue(), clients=authority, admit=postgres.ADMIT_BY_CERTIFICATE)
    certificate = authority.issue("relay.example", common_name=postgres.USER)
    chain, key = certificate.write(tmp_path, "client")
    tls_outbox.create_slot()
    relay = tls_outbox.streaming(dsn=tls_outbox.dsn(password="", sslcert=chain, sslkey=key))
    tls_outbox.confirm()

    name, change = DAMAGES[damage]
    change(tmp_path / name, stranger)
    goes_on(tls_outbox)
    relay.wait_for_log("watch.failed", timeout=LOOK_SECONDS, level="warning")
    goes_on(tls_outbox)
    assert len(relay.log_lines("streaming")) == 1

    terminate_walsender(tls_outbox.database)
    relay.wait_for_log("waiting", level="warning")
    authority.write(tls_outbox.ca)
    key.unlink(missing_ok=True)
    certificate.write(tmp_path, "client")
    relay.wait_for_log("streaming", nth=2, timeout=LOOK_SECONDS)
    tls_outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0
