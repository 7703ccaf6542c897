"""Offline predictions: one row a generation. Written by serving alone. The scores lie in the artifact store, not here."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import Field

from shared.registry.states import PrecomputeState
from shared.registry.tables.columns import LeasedWork, created_field, id_field, json_field, text_field, time_field


class Precompute(LeasedWork, table=True):
    """Many rows scored ahead by one version, as immutable files. The ready one of the highest number answers lookups."""

    __tablename__ = "precomputes"
    __table_args__ = (
        UniqueConstraint("pipeline_id", "number", name="precomputes_pipeline_number"),
        # Two schedulers are harmless: a slot is taken once.
        UniqueConstraint("pipeline_id", "slot", name="precomputes_pipeline_slot"),
        Index("precomputes_open", "state", postgresql_where="state in ('queued', 'running')"),
        Index("precomputes_one_running", "pipeline_id", unique=True, postgresql_where="state = 'running'"),
    )

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    number: int
    """The generation."""
    state: str = Field(default=PrecomputeState.QUEUED)
    source: dict[str, Any] = json_field()
    """`{"keys_seen": {"since"?}}`, `{"dataset", "split"?}`, or `{"file"}`: the sha256 of an uploaded Parquet file."""
    trigger: str
    """request, schedule or release."""
    requested_by: str = text_field(default="")
    """Name of the API key; of whom released, after a release."""
    slot: datetime | None = time_field()
    """The cron slot that started it."""
    version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    """Who scores: the version that was live when it was first taken up."""
    computed_at: datetime | None = time_field()
    """When its rows were read: no row is fresher."""
    rows: int | None = Field(default=None, sa_type=BigInteger)
    size_bytes: int | None = Field(default=None, sa_type=BigInteger)
    digest: str | None = text_field()
    """sha256 of the generation's manifest, which holds the sha256 of its files."""
    parity: dict[str, Any] = json_field()
    """`{"rows", "largest_difference"}`: the rows that were scored again, one by one, as /predict does."""
    progress: dict[str, Any] = json_field()
    """`{"step", "rows_done", "rows", "seconds"}`; `rows` is missing while it is not known."""
    created_at: datetime = created_field()
