"""API keys and remembered answers of idempotent requests. Keys are written by the data service and by migrate."""

from datetime import datetime
from typing import Any

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import created_field, json_field, time_field


class ApiKey(SQLModel, table=True):
    """One scoped API key; only the sha256 of its secret is kept."""

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True)
    """12 hex characters: the public part of the key text."""
    name: str
    secret_hash: str
    """sha256 hex of the whole key text."""
    scopes: list[str] = Field(sa_type=ARRAY(Text))
    pipelines: list[str] | None = Field(default=None, sa_type=ARRAY(Text))
    """Names it is limited to; null: all."""
    created_at: datetime = created_field()
    created_by: str = ""
    expires_at: datetime | None = time_field()
    revoked_at: datetime | None = time_field()


class IdempotencyRecord(SQLModel, table=True):
    """The first answer to a request that carried an Idempotency-Key, stored in the same transaction as its effect."""

    __tablename__ = "idempotency_records"

    key_id: str = Field(primary_key=True)
    route: str = Field(primary_key=True)
    """Method and path."""
    idempotency_key: str = Field(primary_key=True)
    body_digest: str
    status: int
    body: Any = json_field(nullable=True)
    created_at: datetime = created_field()
