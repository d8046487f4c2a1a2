"""Only what has to do with the database."""

import os

from psycopg.conninfo import conninfo_to_dict

VERSION = os.environ["VERSION"]
DATABASE_URL = os.environ["DATABASE_URL"]  # postgresql://…
_parts = conninfo_to_dict(DATABASE_URL)

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _parts["dbname"],
        "USER": _parts.get("user", ""),
        "PASSWORD": _parts.get("password", ""),
        "HOST": _parts.get("host", ""),
        "PORT": _parts.get("port", ""),
        "CONN_MAX_AGE": 600,
        "OPTIONS": {"application_name": f"webshop/{VERSION}"},  # as `register` calls its own
        # What .iterator() uses: not behind a pooler that shares connections between transactions.
        "DISABLE_SERVER_SIDE_CURSORS": "POOLED" in os.environ,
    }
}
INSTALLED_APPS = ["webshop.apps.WebshopConfig"]
MIDDLEWARE = ["webshop.middleware.pin"]
ROOT_URLCONF = "webshop.urls"
WSGI_APPLICATION = "webshop.wsgi.application"
SECRET_KEY = os.environ.get("SECRET_KEY", "for the example")
ALLOWED_HOSTS = ["*"]
USE_TZ = True
