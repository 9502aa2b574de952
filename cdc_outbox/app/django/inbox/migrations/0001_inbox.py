"""Runs `sql/consumer.sql`. Backwards: drops the functions and the table, with all claims."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from cdc_outbox.app.django.scripts import read_script


class Migration(migrations.Migration):
    """Create the table and its functions to claim and to prune."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar = [
        migrations.RunSQL(
            read_script("consumer"),
            reverse_sql="DROP FUNCTION public.inbox_claim, public.inbox_prune; DROP TABLE public.inbox;",
        ),
    ]
