"""The outbox in Django's admin, to be read: registered if `django.contrib.admin` is installed, which imports this module."""

from __future__ import annotations

from typing import Any

from django.contrib import admin

from cdc_outbox.app.django.models import OutboxEvent


@admin.register(OutboxEvent)
class OutboxEventAdmin(admin.ModelAdmin):
    """Events, the last first. Nothing can be added, changed or deleted: the relay has sent these rows."""

    list_display = ("seq", "created_at", "aggregatetype", "aggregateid", "type", "id")
    list_filter = ("aggregatetype",)
    search_fields = ("=id", "=aggregateid", "=type")
    search_help_text = "The whole id, aggregate id or type of an event."
    ordering = ("-seq",)
    show_full_result_count = False  # counts the whole table otherwise
    actions = None

    def has_add_permission(self, request: Any) -> bool:  # noqa: ARG002 - Django's signature
        """Never: `emit` writes events."""
        return False

    def has_change_permission(self, request: Any, obj: object = None) -> bool:  # noqa: ARG002
        """Never: a relay has sent the row as it was."""
        return False

    def has_delete_permission(self, request: Any, obj: object = None) -> bool:  # noqa: ARG002
        """Never: `cdc-outbox prune` deletes rows that are delivered."""
        return False
