"""Open a session so that a refused login has its SQLSTATE.

In: a conninfo string. Out: a psycopg connection, or psycopg's OperationalError whose text has the SQLSTATE of each refusal.
Never: an open session with a changed verbosity.

Before a session is open, libpq returns the server's report only as text, in the server's language (`lc_messages`). With verbose
errors that text begins with the SQLSTATE, and ends with the source function, which is not translated. The verbosity has to
be set between PQconnectStart and PQconnectPoll; psycopg has no function for that, so libpq's own is called.

PostgreSQL manual: 32.1 PQconnectPoll; 32.3 PQsetErrorVerbosity; 54.8 Error and Notice Message Fields.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq
from psycopg.waiting import Ready, Wait

_DEFAULT: Final = 1
_VERBOSE: Final = 2
"""PGVerbosity of libpq-fe.h."""

_REPORT: Final = re.compile(r":\s+(?=[A-Z]*\d)([0-9A-Z]{5}): (.*?)(?:\s+LOCATION:\s+(\w+), \S+)?$", re.DOTALL)
_SEVERAL: Final = "All failures were:"
_ATTEMPT: Final = re.compile(r"^.*?connection (failed|is bad): (connection to )?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the login at one host or address failed. Without a SQLSTATE, the text is libpq's own message, which is English."""

    text: str
    sqlstate: str = ""
    function: str = ""
    """The function in the server's source that reported the error."""


class LoginConnection(psycopg.Connection[tuple[object, ...]]):
    """A connection whose login reports errors verbosely."""

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Generator[tuple[int, Wait], Ready | int, LoginConnection]:
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        _set_verbosity(pgconn, _VERBOSE)
        status: int = pq.PollingStatus.WRITING
        if pgconn.status == pq.ConnStatus.BAD:
            status = pq.PollingStatus.FAILED
        while status in {pq.PollingStatus.READING, pq.PollingStatus.WRITING}:
            status = pgconn.connect_poll()
            if status in {pq.PollingStatus.READING, pq.PollingStatus.WRITING}:
                wait = Wait.R if status == pq.PollingStatus.READING else Wait.W
                while not (yield pgconn.socket, wait):
                    pass
        if status != pq.PollingStatus.OK:
            text = pgconn.error_message.decode(errors="replace")
            pgconn.finish()
            raise psycopg.OperationalError(f"connection failed: {text}")
        _set_verbosity(pgconn, _DEFAULT)
        pgconn.nonblocking = 1
        return cls(pgconn)


def _set_verbosity(pgconn: pq.abc.PGconn, verbosity: int) -> None:
    address: int | None = getattr(pgconn, "pgconn_ptr", None)
    if address is not None:
        _libpq().PQsetErrorVerbosity(ctypes.c_void_p(address), ctypes.c_int(verbosity))


@functools.cache
def _libpq() -> ctypes.CDLL:
    """The libpq that psycopg uses: found through the extension module that is linked with it."""
    if pq.__impl__ == "python":
        return ctypes.CDLL(importlib.import_module("psycopg.pq.misc").find_libpq_full_path())
    return ctypes.CDLL(importlib.import_module(pq.PGconn.__module__).__file__)


def refusals(text: str) -> list[Refusal]:
    """Parse the text of a failed login: one refusal for each host and address, without duplicates."""
    _, several, attempts = text.partition(_SEVERAL)
    parts = attempts.split("\n- ")[1:] if several else [text]
    return list(dict.fromkeys(map(_refusal, parts)))


def _refusal(part: str) -> Refusal:
    found = _REPORT.search(part)
    place = _one_line(_ATTEMPT.sub("", part if found is None else part[: found.start()]))
    if found is None:
        return Refusal(place)
    head, _, severity = place.rpartition(": ")
    message = _one_line(found[2])
    return Refusal(f"{head}: {severity}: {message}" if head else message, found[1], found[3] or "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
