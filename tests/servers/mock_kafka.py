"""librdkafka's mock cluster: brokers in this process that give any error on demand, also those that a real one will not.

In: errors to answer with, by kind of request; brokers up, down, slow. Out: a bootstrap address for any number of clients.
Never: TLS, SASL, ACLs, fencing, or transactions to be believed (it shows aborted records): a real broker is for that.

The cluster comes out of the very shared library that confluent_kafka's wheel brings along, by ctypes. rdkafka_mock.h calls the
interface experimental: where the wheel does not bring it, `MockUnavailable` says so.
"""

from __future__ import annotations

import ctypes
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import Final, Self

import confluent_kafka

_PRODUCER: Final = 0
"""RD_KAFKA_PRODUCER: the handle that a mock cluster needs beside it; it never connects anywhere."""

ALL_BROKERS: Final = -1


class MockUnavailable(Exception):
    """This confluent_kafka has no shared library with a mock cluster in it."""


class Request(IntEnum):
    """Kinds of request (Kafka's API keys) that a producer makes."""

    PRODUCE = 0
    METADATA = 3
    INIT_PRODUCER_ID = 22


class MockKafka:
    """A cluster that lives inside a `with` block."""

    def __init__(self, *, size: int = 1) -> None:
        self._size = size
        self._library = _library()
        self._handle: int | None = None
        self._cluster: int | None = None

    def __enter__(self) -> Self:
        library, words = self._library, ctypes.create_string_buffer(512)
        configuration = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(configuration, b"log_level", b"0", words, len(words))
        self._handle = library.rd_kafka_new(_PRODUCER, configuration, words, len(words))
        if not self._handle:
            raise MockUnavailable(words.value.decode())
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, self._size)
        return self

    def __exit__(self, *_: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)

    @property
    def brokers(self) -> str:
        """Where clients begin."""
        return str(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create_topic(self, name: str, partitions: int = 6) -> str:
        """Make a topic; one that nobody made comes on demand with four partitions. Returns its name."""
        self._done(self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, self._size))
        return name

    def fail(self, request: Request, *errors: int, late: float = 0.0) -> None:
        """Each broker answers its next requests of this kind with these errors (KafkaError's codes), one each, in this order.

        0 is no error: the request is carried out. `late`: the answer takes so many seconds.
        """
        push = self._library.rd_kafka_mock_broker_push_request_error_rtts  # of variable arguments: each says its type
        kind, one, wait = ctypes.c_int(request), ctypes.c_size_t(1), ctypes.c_int(int(late * 1000))
        for broker in range(1, self._size + 1):
            for error in errors:
                self._done(
                    push(ctypes.c_void_p(self._cluster), ctypes.c_int(broker), kind, one, ctypes.c_int(error), wait)
                )

    def down(self, broker: int = ALL_BROKERS) -> None:
        """Connections are closed, new ones refused."""
        self._done(self._library.rd_kafka_mock_broker_set_down(self._cluster, broker))

    def up(self, broker: int = ALL_BROKERS) -> None:
        """Back again."""
        self._done(self._library.rd_kafka_mock_broker_set_up(self._cluster, broker))

    def delay(self, seconds: float, broker: int = ALL_BROKERS) -> None:
        """Every answer takes so long from now on."""
        self._done(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, int(seconds * 1000)))

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Another broker leads the partition from now on; clients learn it from NOT_LEADER_FOR_PARTITION."""
        done = self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker)
        self._done(done)

    def _done(self, error: int) -> None:
        assert error == 0, f"the mock cluster refuses: {confluent_kafka.KafkaError(error).str()}"


def _library() -> ctypes.CDLL:
    """The shared library that confluent_kafka runs on, with the signatures of what is used here."""
    folder = Path(confluent_kafka.__file__).parent
    found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*")]
    if not found:
        raise MockUnavailable(f"no librdkafka beside {folder}")
    library = ctypes.CDLL(str(found[0]))
    if not hasattr(library, "rd_kafka_mock_cluster_new"):
        raise MockUnavailable(f"{found[0].name} has no mock cluster")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "conf_new": (pointer, ()),
        "conf_set": (number, (pointer, text, text, text, ctypes.c_size_t)),
        "new": (pointer, (number, pointer, text, ctypes.c_size_t)),
        "destroy": (None, (pointer,)),
        "mock_cluster_new": (pointer, (pointer, number)),
        "mock_cluster_destroy": (None, (pointer,)),
        "mock_cluster_bootstraps": (text, (pointer,)),
        "mock_topic_create": (number, (pointer, text, number, number)),
        "mock_broker_set_down": (number, (pointer, number)),
        "mock_broker_set_up": (number, (pointer, number)),
        "mock_broker_set_rtt": (number, (pointer, number, number)),
        "mock_partition_set_leader": (number, (pointer, text, number, number)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, list(arguments)
    return library


def installed_properties() -> dict[str, str | None]:
    """The properties that this librdkafka documents, and the hidden ones that have a default, with their defaults."""
    library = _library()
    found: dict[str, str | None] = dict.fromkeys(documented_types())
    pointer, count = ctypes.c_void_p, ctypes.c_size_t()
    for kind in ("conf", "topic_conf"):
        new, dump = getattr(library, f"rd_kafka_{kind}_new"), getattr(library, f"rd_kafka_{kind}_dump")
        new.restype, dump.restype, dump.argtypes = pointer, ctypes.POINTER(ctypes.c_char_p), [pointer, pointer]
        pairs = dump(new(), ctypes.byref(count))
        for at in range(0, count.value, 2):
            value = pairs[at + 1]
            found[pairs[at].decode()] = None if value is None else value.decode()
    return found


def documented_types() -> dict[str, str]:
    """The properties in the table that librdkafka prints, which is its CONFIGURATION.md, with their types as `integer`."""
    library, libc, pointer = _library(), ctypes.CDLL(None), ctypes.c_void_p
    libc.fopen.restype, libc.fopen.argtypes, libc.fclose.argtypes = pointer, [ctypes.c_char_p] * 2, [pointer]
    library.rd_kafka_conf_properties_show.argtypes = [pointer]
    with tempfile.NamedTemporaryFile() as file:
        stream = libc.fopen(file.name.encode(), b"w")
        library.rd_kafka_conf_properties_show(stream)
        libc.fclose(stream)
        rows = [line.split("|") for line in file.read().decode().splitlines() if line.count("|") > 4]
    named = [(row[0].strip(), row[-1].rpartition("*Type: ")[2].rstrip("* ")) for row in rows]
    return {name: kind for name, kind in named if name and name != "Property" and not name.startswith("-")}
