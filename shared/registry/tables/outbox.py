"""Nudges waiting to be published. Written in the same transaction as the row they are about."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, Column, Identity, Index
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import created_field, text_field, time_field


class OutboxMessage(SQLModel, table=True):
    """One nudge: look at row `row_id`."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_unsent", "id", postgresql_where="sent_at is null"),)

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(always=False), primary_key=True))
    task: str
    row_id: uuid.UUID
    request_id: str = text_field(default="")
    created_at: datetime = created_field()
    sent_at: datetime | None = time_field()
