"""Django: ``DATABASE_URL=postgresql://… VERSION=2.4.0 gunicorn --workers 2 webshop.wsgi``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webshop.settings")
application = get_wsgi_application()
