"""Registers every process: web workers, and management commands, too."""

import os
from typing import Any

from django.apps import AppConfig
from django.conf import settings

from zdmigrate.app import ReadSwitch, register

MIGRATION = "0001_email"
emails = ReadSwitch(MIGRATION)


class WebshopConfig(AppConfig):
    name = "webshop"
    fleet: Any = None

    def ready(self) -> None:
        self.fleet = register(
            settings.DATABASE_URL,
            application="webshop",
            version=settings.VERSION,
            requires={MIGRATION: "backfill"},
            shapes={MIGRATION: "either"},  # it follows the switch
            interval=float(os.environ.get("HEARTBEAT", "10")),
        )
