"""The web API: registers a user. The user and the event are written in one transaction: both, or neither.

    DATABASE_URL=postgresql://… uvicorn examples.registration.web:app

It depends neither on Kafka nor on the consumers.
"""

from __future__ import annotations

import os
from uuid import UUID

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from cdc_outbox.app import emit, uuid7

app = FastAPI()
engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))
Session = sessionmaker(engine)


class Base(DeclarativeBase):
    """The tables of this service. Its outbox is made by `cdc-outbox sql install`."""


class User(Base):
    """A registered user. An address registers once."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]


class Registration(BaseModel):
    """What is posted."""

    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    name: str = Field(min_length=1)


class Registered(BaseModel):
    """What is answered."""

    id: UUID


@app.post("/users", status_code=201)
def register(registration: Registration) -> Registered:
    """Register a user. 409: the address is taken, and then there is no event either."""
    user_id = uuid7()
    try:
        with Session.begin() as session:
            emit(
                session,
                aggregate_type="user",  # the topic: outbox.event.user
                aggregate_id=user_id,  # the key: what happens to one user arrives in order
                type="UserRegistered",
                payload={"id": str(user_id), "email": registration.email, "name": registration.name},
            )
            session.add(User(id=user_id, email=registration.email, name=registration.name))
    except IntegrityError:  # at the commit: the event, which was written by then, is rolled back with it
        raise HTTPException(409, "this address is registered already") from None
    return Registered(id=user_id)
