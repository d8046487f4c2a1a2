"""Celery: ``DATABASE_URL=postgresql+psycopg://… VERSION=2.4.0 celery --app celery_app worker --concurrency 2``."""

import os
from typing import Any

import sqlalchemy as sa
from celery import Celery
from celery.signals import worker_process_shutdown
from sqlalchemy.orm import Session

from zdmigrate.app import install, pinned, register

MIGRATION = "0001_email"
engine = sa.create_engine(os.environ["DATABASE_URL"])
install(engine)
# The worker's first process registers here, and each child that it forks registers itself.
fleet = register(
    engine,
    application="shop",
    version=os.environ["VERSION"],
    requires={MIGRATION: "backfill"},
    shapes={MIGRATION: "either"},  # it follows the switch
    interval=float(os.environ.get("HEARTBEAT", "10")),
)
emails = fleet.switch(MIGRATION)
users = sa.table("users", sa.column("id"), sa.column("user_email"), sa.column("email_address"))

app = Celery("shop")
app.config_from_object("celeryconfig")


@worker_process_shutdown.connect
def goodbye(**_: Any) -> None:
    """Celery's children end by ``os._exit``: nothing else says goodbye for them."""
    fleet.retire()


@app.task(name="email")
@pinned()  # one answer of the switch for all of a task
def email(user_id: int) -> dict[str, object]:
    column = emails.pick(user_id, old=users.c.user_email, new=users.c.email_address)
    with Session(engine) as session:
        found = session.scalar(sa.select(column).where(users.c.id == user_id))
    return {"email": found, "column": column.name, "process": os.getpid()}
