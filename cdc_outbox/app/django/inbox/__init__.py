"""A Django app for consumers: `INSTALLED_APPS = [..., "cdc_outbox.app.django.inbox"]`, then `manage.py migrate`.

Its migration runs `sql/consumer.sql`: table `public.inbox`, functions to claim and to prune. A message is consumed with
`cdc_outbox.app.once("default", …)`.
"""
