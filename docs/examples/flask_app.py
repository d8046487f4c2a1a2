"""Flask: ``DATABASE_URL=postgresql+psycopg://… VERSION=2.4.0 gunicorn --preload --workers 2 flask_app:app``."""

import os
from contextlib import ExitStack

import sqlalchemy as sa
from flask import Flask, abort, g
from sqlalchemy.orm import Session
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from zdmigrate.app import install, pinned, register, wsgi_ready

MIGRATION = "0001_email"
engine = sa.create_engine(os.environ["DATABASE_URL"])
install(engine)
# Here, and not in a hook of gunicorn's: each worker that is forked later registers itself.
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

app = Flask(__name__)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/ready": wsgi_ready(fleet)})  # type: ignore[method-assign]


@app.before_request
def pin() -> None:
    """One answer of the switch for all of a request."""
    g.pin = ExitStack()
    g.pin.enter_context(pinned())


@app.teardown_request
def unpin(_error: BaseException | None) -> None:
    if "pin" in g:
        g.pop("pin").close()


@app.get("/users/<int:user_id>")
def user(user_id: int) -> dict[str, object]:
    column = emails.pick(user_id, old=users.c.user_email, new=users.c.email_address)
    with Session(engine) as session:
        email = session.scalar(sa.select(column).where(users.c.id == user_id))
    if email is None:
        abort(404)
    return {"email": email, "column": column.name, "process": os.getpid()}
