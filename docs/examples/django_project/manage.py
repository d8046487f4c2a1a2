"""Management commands: ``DATABASE_URL=postgresql://… VERSION=2.4.0 python manage.py shell``."""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webshop.settings")

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
