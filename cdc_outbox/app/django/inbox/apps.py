"""The app's name and label."""

from __future__ import annotations

from django.apps import AppConfig


class InboxConfig(AppConfig):
    """Found by Django, as the only one of this module."""

    name = "cdc_outbox.app.django.inbox"
    label = "cdc_outbox_inbox"
    verbose_name = "Inbox"
