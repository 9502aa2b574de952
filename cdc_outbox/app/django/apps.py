"""The app's name and label."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class OutboxConfig(AppConfig):
    """Found by Django, as the only one of this module."""

    name = "cdc_outbox.app.django"
    label = "cdc_outbox"
    verbose_name = "Transactional outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from cdc_outbox.app.django.checks import check_outbox  # noqa: PLC0415 - it imports models' modules

        checks.register(check_outbox, checks.Tags.database)
