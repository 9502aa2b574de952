"""The payload as stored text, whatever JSON type its column has: the text that the relay sends to Kafka."""

from __future__ import annotations

from typing import Any

from django.db import models


class StoredText(models.TextField):
    """A column of type json, jsonb or text, read as its text (of a bytea: PostgreSQL's hex notation)."""

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:  # noqa: ARG002
        """Django's hook for the expression that is selected."""
        return f"CAST({sql} AS text)", params
