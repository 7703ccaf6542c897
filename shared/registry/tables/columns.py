"""Column kinds used by more than one table, and the columns that make a row a unit of leased work."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Integer, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from shared.ids import new_id

UtcTime = DateTime(timezone=True)
"""timestamptz: always aware, stored in UTC."""


def id_field() -> Any:
    """A time-ordered primary key made by the application."""
    return Field(default_factory=new_id, primary_key=True)


def created_field() -> Any:
    """When the row was written, by the database's clock."""
    return Field(default=None, sa_type=UtcTime, sa_column_kwargs={"server_default": func.now(), "nullable": False})


def time_field(*, nullable: bool = True, index: bool = False) -> Any:
    """An aware moment."""
    options: dict[str, Any] = {"sa_type": UtcTime, "nullable": nullable, "index": index}
    return Field(default=None, **options) if nullable else Field(**options)


def json_field(*, nullable: bool = False) -> Any:
    """A JSON document; `{}` when nothing is given and it must not be null."""
    if nullable:
        return Field(default=None, sa_type=JSONB)
    return Field(default_factory=dict, sa_type=JSONB, sa_column_kwargs={"nullable": False})


def text_field(*, default: str | None = None, index: bool = False) -> Any:
    """Text of any length."""
    return Field(default=default, sa_type=Text, index=index)


class LeasedWork(SQLModel):
    """The columns `shared.jobs.lease` works on. Only the holder of the current fence may finish the row."""

    fence: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    """Grows by one at each claim; a final write repeats it, so a worker that was presumed dead cannot write."""
    attempt: int = Field(default=0, sa_type=Integer, sa_column_kwargs={"server_default": "0"})
    """How often it was tried. What an outage or the stop of its worker cut short is not counted."""
    lease_until: datetime | None = time_field()
    """By the database's clock: until then nobody may take the row. Past it, the sweeper queues a running row again; a queued one
    was given back, and has waited long enough."""
    worker: str | None = text_field()
    """Who holds or last held the lease: host and process."""
    nudged_at: datetime | None = time_field()
    """When the last nudge for this row was written to the outbox; the sweeper repeats it while the row waits."""
    started_at: datetime | None = time_field()
    """When it was first claimed."""
    finished_at: datetime | None = time_field()
    """When it reached a state that ends it."""
    reason: str | None = text_field()
    """Why it failed, was rejected or cancelled: a sentence for a person."""


__all__ = [
    "LeasedWork",
    "UtcTime",
    "created_field",
    "id_field",
    "json_field",
    "text_field",
    "time_field",
]
