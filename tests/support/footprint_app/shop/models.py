"""Tables and classes."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All of them."""


class State(enum.Enum):
    """Stored by value."""

    NEW = "new"
    PAID = "paid"


class Upper(sa.TypeDecorator[str]):
    """Text of a kind."""

    impl = sa.String(40)
    cache_ok = True


class Person(Base):
    """Two classes in one table."""

    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20))
    email: Mapped[str] = mapped_column(unique=True)
    nick: Mapped[str | None] = mapped_column(Upper)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Employee(Person):
    """The other one."""

    __mapper_args__ = {"polymorphic_identity": "employee"}  # noqa: RUF012


class Order(Base):
    """Most kinds of columns."""

    __tablename__ = "orders"
    __table_args__ = (
        sa.UniqueConstraint("person_id", "number"),
        sa.Index("orders_open", "number", unique=True, postgresql_where=sa.text("state = 'new'")),
        sa.Index("orders_code", "code", unique=True),
        sa.Index("orders_lower", sa.text("lower(code)"), unique=True),
    )
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    person_id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"))
    number: Mapped[int] = mapped_column(sa.Integer, default=1)
    code: Mapped[str | None]
    state: Mapped[State] = mapped_column(
        sa.Enum(State, name="order_state", values_callable=lambda states: [each.value for each in states]),
        server_default="new",
    )
    level: Mapped[str | None] = mapped_column(sa.Enum("low", "high", native_enum=False, name="level"))
    tags: Mapped[list[str] | None] = mapped_column(postgresql.ARRAY(sa.Text))
    total: Mapped[Any] = mapped_column(sa.Numeric(12, 2), server_default="0")
    double: Mapped[Any] = mapped_column(sa.Numeric, sa.Computed("total * 2"))
    made: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


def metadata() -> sa.MetaData:
    """For those who name a function."""
    return Base.metadata
