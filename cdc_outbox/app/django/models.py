"""The outbox table, to be read: in tests, in the admin, in a shell. Events are written by `cdc_outbox.app.emit`."""

from __future__ import annotations

from django.db import models

from cdc_outbox.app.django.fields import StoredText


class OutboxEvent(models.Model):
    """One row of `public.outbox`. Not managed: the migration's SQL creates the table."""

    seq = models.BigAutoField(primary_key=True)
    id = models.UUIDField()
    created_at = models.DateTimeField()
    aggregatetype = models.TextField()
    aggregateid = models.TextField(null=True)
    type = models.TextField(null=True)
    payload = StoredText(null=True)
    headers = models.JSONField(null=True)

    class Meta:
        """The table, in the order of its rows."""

        managed = False
        db_table = "outbox"
        ordering = ("seq",)
