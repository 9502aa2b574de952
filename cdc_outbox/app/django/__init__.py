"""A Django app for the outbox: `INSTALLED_APPS = [..., "cdc_outbox.app.django"]`, then `manage.py migrate`.

Its migration runs `sql/outbox.sql`: table `public.outbox`, emit function, publication. `cdc_outbox.app.django.inbox` is the
app for consumers. Events are written with `cdc_outbox.app.emit("default", …)`, inside `transaction.atomic()`.
"""
