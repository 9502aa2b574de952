"""Fixtures of the tests of documents."""

from tests.docs.shell import shell

__all__ = ["shell"]
