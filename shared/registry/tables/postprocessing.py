"""What serving does with scores: the append-only story of the stages and of the removal list. Written by serving alone.

The database notifies `shared.contracts.tasks.DEPLOYMENT_CHANNEL` of every row.
"""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import created_field, text_field


class StagesChange(SQLModel, table=True):
    """Stages put in the place of those before; the newest ones are in force."""

    __tablename__ = "stages_history"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    number: int = Field(primary_key=True)
    """From 1, without gaps."""
    stages: list[dict[str, Any]] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    """As in a pipeline file; null: those of the pipeline's current spec."""
    actor: str
    """Name of the API key."""
    reason: str = text_field(default="")
    created_at: datetime = created_field()


class RemovalChange(SQLModel, table=True):
    """Items put on the removal list or taken off it."""

    __tablename__ = "removal_history"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    sequence: int = Field(sa_type=BigInteger, primary_key=True)
    """From 1, without gaps."""
    removes: bool
    """False: they are reinstated."""
    field: str = Field(sa_type=Text)
    """The field of an instance that is compared; empty: the key."""
    items: list[str] = Field(sa_type=ARRAY(Text))
    """Values as texts: numbers in decimal, `true` and `false`."""
    actor: str
    """Name of the API key."""
    reason: str = text_field(default="")
    created_at: datetime = created_field()
