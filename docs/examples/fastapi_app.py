"""FastAPI: ``DATABASE_URL=postgresql+asyncpg://… VERSION=2.4.0 uvicorn fastapi_app:app``."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from zdmigrate.app import ReadSwitch, asgi_ready, install, pinned, register_async

MIGRATION = "0001_email"
engine = create_async_engine(os.environ["DATABASE_URL"])
install(engine)  # asyncpg prepares everything
emails = ReadSwitch(MIGRATION)
users = sa.table("users", sa.column("id"), sa.column("user_email"), sa.column("email_address"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with await register_async(
        engine,
        application="shop",
        version=os.environ["VERSION"],
        requires={MIGRATION: "backfill"},
        shapes={MIGRATION: "either"},  # it follows the switch
        interval=float(os.environ.get("HEARTBEAT", "10")),
    ) as fleet:  # which retires at the end
        app.router.routes.insert(0, Route("/ready", asgi_ready(fleet)))  # before any catch-all
        yield
    await engine.dispose()


class Pinned:
    """One answer of the switch for all of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a lifespan, or a socket, which may be open for days
            await self.app(scope, receive, send)
        else:
            with pinned():
                await self.app(scope, receive, send)


app = FastAPI(lifespan=lifespan)
app.add_middleware(Pinned)


@app.get("/users/{user_id}")
async def user(user_id: int) -> dict[str, object]:
    column = emails.pick(user_id, old=users.c.user_email, new=users.c.email_address)
    async with AsyncSession(engine) as session:
        email = await session.scalar(sa.select(column).where(users.c.id == user_id))
    if email is None:
        raise HTTPException(404)
    return {"email": email, "column": column.name, "process": os.getpid()}
