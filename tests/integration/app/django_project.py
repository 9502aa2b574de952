"""A Django project in this process: our two apps, the admin, and the test's database as `default`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=[
            "cdc_outbox.app.django",
            "cdc_outbox.app.django.inbox",
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        ROOT_URLCONF="tests.integration.app.django_urls",
        STATIC_URL="/static/",
        ALLOWED_HOSTS=["testserver"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
        LOGGING_CONFIG=None,
        USE_TZ=True,
        SECRET_KEY="a test's",
    )
    django.setup()


@contextlib.contextmanager
def database(dsn: str) -> Iterator[str]:
    """Let `default` be this database. Gives the alias."""
    from django.db import connections

    parts = conninfo_to_dict(dsn)
    before = connections["default"].settings_dict
    connections["default"].close()
    del connections["default"]
    connections.settings["default"] = {
        **before,
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "PASSWORD": parts.get("password") or "",
        "HOST": parts["host"],
        "PORT": parts["port"],
    }
    try:
        yield "default"
    finally:
        connections["default"].close()
        del connections["default"]
        connections.settings["default"] = before
