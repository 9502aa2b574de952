"""The app's name and label."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """Found by Django, as the only one of this module."""

    name = "cdc_outbox.app.django"
    label = "cdc_outbox"
    verbose_name = "Transactional outbox"
    default_auto_field = "django.db.models.BigAutoField"
