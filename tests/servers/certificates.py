"""A certificate authority of a test's own, and certificates that are right or wrong on purpose.

In: names. Out: PEM, as PostgreSQL (two files) and Kafka (one file, the key as PKCS #8) want it.
Never: a key that anything but a test trusts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

if TYPE_CHECKING:
    from cdc_outbox.demo.reaper import Account

HERE: Final = ("localhost", "127.0.0.1")
"""The names under which a server of a test is reached."""

ELSEWHERE: Final = ("server.example.internal",)
"""A name under which it is not."""

_LONG_AGO: Final = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC))
"""When an expired certificate was good."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with what leads to its authority, and its key."""

    chain: bytes
    key: bytes

    def write(self, folder: Path, name: str, owner: Account | None = None) -> tuple[Path, Path]:
        """Write `name.crt` and `name.key`, the key for `owner` (us without one) alone. Their paths."""
        chain, key = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content, mode in ((chain, self.chain, 0o644), (key, self.key, 0o600)):
            path.touch(mode=mode)
            path.write_bytes(content)
            if owner is not None:
                os.chown(path, owner.uid, owner.gid)
        return chain, key

    def write_store(self, path: Path) -> Path:
        """Write key and chain into one file, a keystore of Kafka's type PEM."""
        path.touch(mode=0o600)
        path.write_bytes(self.key + self.chain)
        return path


class Authority:
    """Signs certificates."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def write(self, path: Path) -> Path:
        """Write the authority's own certificate. Its path, for `sslrootcert` and `ssl.ca.location`."""
        path.write_bytes(self.pem)
        return path

    def issue(self, *names: str, common_name: str | None = None, expired: bool = False) -> Certificate:
        """A certificate for these host names and addresses (HERE without any)."""
        since, until = _LONG_AGO if expired else (None, None)
        issued = self._ca.issue_cert(*(names or HERE), common_name=common_name, not_before=since, not_after=until)
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        return Certificate(
            b"".join(blob.bytes() for blob in issued.cert_chain_pems),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
