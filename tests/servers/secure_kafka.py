"""An Apache Kafka with one listener for each way to be secure, or to be wrong about it.

In: an `Authority`, a folder. Out: a broker whose listeners are

    TLS         a right certificate             SCRAM   TLS and SASL SCRAM-SHA-512
    MISNAMED    one for another host            PLAIN   TLS and SASL PLAIN
    EXPIRED     one that was good once          MUTUAL  TLS, and a certificate of the client is required

and the plain ones that every broker of the tests has. Who logs in by SASL or by certificate may do what an ACL grants, and
nothing else; everybody else may do everything (they are ANONYMOUS, a super user here).

Apache Kafka's documentation: 7.2 Encryption and Authentication using SSL, 7.3 SASL, 7.5 Authorization and ACLs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.servers.certificates import ELSEWHERE, Authority
from tests.servers.kafka import BRIEF, Kafka
from tests.servers.place import data_folder

if TYPE_CHECKING:
    from pathlib import Path

LISTENERS: Final = {
    "TLS": "SSL",
    "MISNAMED": "SSL",
    "EXPIRED": "SSL",
    "MUTUAL": "SSL",
    "SCRAM": "SASL_SSL",
    "PLAIN": "SASL_SSL",
}

USER: Final = "relay"
POWERLESS: Final = "powerless"
"""A user whom no ACL ever names, with the same SCRAM password."""

PLAIN_PASSWORD: Final = "plain-sunflower-41"
SCRAM_PASSWORD: Final = "scram-marigold-73"

_MODULE: Final = "org.apache.kafka.common.security"


class SecureKafka(Kafka):
    """Started like any `Kafka`; the user's SCRAM password is there once it runs."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self.ca_path = authority.write(folder / "ca.pem")
        certificates = {
            "MISNAMED": authority.issue(*ELSEWHERE),
            "EXPIRED": authority.issue(expired=True),
        }
        right = authority.issue()
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.truststore.type": "PEM",
            "listener.name.mutual.ssl.truststore.location": str(self.ca_path),
            "listener.name.mutual.ssl.principal.mapping.rules": "RULE:.*CN=([^,]*).*/$1/",
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{_MODULE}.scram.ScramLoginModule required;",
            "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.plain.plain.sasl.jaas.config": (
                f'{_MODULE}.plain.PlainLoginModule required user_{USER}="{PLAIN_PASSWORD}";'
            ),
        }
        for name in LISTENERS:
            store = certificates.get(name, right).write_store(folder / f"{name}.pem")
            properties |= {
                f"listener.name.{name.lower()}.ssl.keystore.type": "PEM",
                f"listener.name.{name.lower()}.ssl.keystore.location": str(store),
            }
        super().__init__(heap=BRIEF, properties=properties, listeners=LISTENERS, parent=data_folder())

    def start(self, *, timeout: float = 60.0) -> None:
        """Start, and make the users."""
        super().start(timeout=timeout)
        for user in (USER, POWERLESS):
            self.set_password(SCRAM_PASSWORD, user)

    def set_password(self, password: str, user: str = USER) -> None:
        """Change a user's SCRAM password, for logins from now on."""
        credentials = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        upsertion = UserScramCredentialUpsertion(user, credentials, password.encode())
        admin = self._admin()  # it must live until the answer is here
        for done in admin.alter_user_scram_credentials([upsertion]).values():
            done.result(timeout=30)

    def cut_logins(self) -> None:
        """Restart, so that everybody has to log in again. The users and their passwords stay as they are."""
        self.stop()
        super().start()

    def grant(self, topic: str, *operations: AclOperation) -> None:
        """Let the user do that (write and describe, unless said otherwise) with a topic."""
        for operation in operations or (AclOperation.WRITE, AclOperation.DESCRIBE):
            binding = AclBinding(
                ResourceType.TOPIC,
                topic,
                ResourcePatternType.LITERAL,
                f"User:{USER}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            admin = self._admin()
            for done in admin.create_acls([binding]).values():
                done.result(timeout=30)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.internal_brokers, "log_level": 0})
