"""Pipelines and their immutable spec versions. Written by the data service alone."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import JSON
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import created_field, id_field, text_field


class Pipeline(SQLModel, table=True):
    """One prediction problem. `name` and what identifies its examples never change."""

    __tablename__ = "pipelines"

    id: uuid.UUID = id_field()
    name: str = Field(unique=True)
    spec_version: int
    """The current spec version's number."""
    created_at: datetime = created_field()


class SpecVersion(SQLModel, table=True):
    """One immutable version of a pipeline file."""

    __tablename__ = "spec_versions"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    number: int = Field(primary_key=True)
    digest: str
    """sha256 hex of the canonical JSON (`shared.spec.spec_digest`)."""
    spec: dict[str, Any] = Field(sa_type=JSON, sa_column_kwargs={"nullable": False})
    """As applied; of type json, not jsonb, so that features keep their order."""
    created_by: str = text_field(default="")
    """Name of the API key that applied it."""
    created_at: datetime = created_field()
