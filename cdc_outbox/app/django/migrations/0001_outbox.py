"""`sql/outbox.sql` as it is. Backwards: `sql/uninstall.sql`, which leaves the table and its rows, and is refused while a
relay streams.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

from cdc_outbox.app.django.fields import StoredText
from cdc_outbox.app.django.scripts import read_script


class Migration(migrations.Migration):
    """Table, emit function, publication."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar = [
        migrations.RunSQL(
            read_script("outbox"),
            reverse_sql=read_script("uninstall"),
            state_operations=[
                migrations.CreateModel(
                    name="OutboxEvent",
                    fields=[
                        ("seq", models.BigAutoField(primary_key=True, serialize=False)),
                        ("id", models.UUIDField()),
                        ("created_at", models.DateTimeField()),
                        ("aggregatetype", models.TextField()),
                        ("aggregateid", models.TextField(null=True)),
                        ("type", models.TextField(null=True)),
                        ("payload", StoredText(null=True)),
                        ("headers", models.JSONField(null=True)),
                    ],
                    options={"db_table": "outbox", "ordering": ("seq",), "managed": False},
                ),
            ],
        ),
    ]
