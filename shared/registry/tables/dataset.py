"""Dataset versions. Written by the data service alone."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import Field

from shared.registry.states import DatasetState
from shared.registry.tables.columns import LeasedWork, created_field, id_field, json_field, text_field, time_field


class Dataset(LeasedWork, table=True):
    """One immutable train and test set: what was known at `as_of`, up to the watermarks."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("pipeline_id", "number", name="datasets_pipeline_number"),
        Index("datasets_open", "state", postgresql_where="state in ('queued', 'building')"),
    )

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    number: int
    spec_version: int
    state: str = Field(default=DatasetState.QUEUED)
    as_of: datetime = time_field(nullable=False)
    """Nothing that happened or became known later is in it."""
    cycle_id: uuid.UUID | None = Field(default=None, index=True)
    event_watermark: int | None = Field(default=None, sa_type=BigInteger)
    """Highest ingest sequence read, for each of the three sources; set once, at the first attempt."""
    label_watermark: int | None = Field(default=None, sa_type=BigInteger)
    prediction_watermark: int | None = Field(default=None, sa_type=BigInteger)
    digest: str | None = text_field()
    """sha256 of the manifest, which holds the sha256 of every file: the dataset's name by content."""
    train_start: datetime | None = time_field()
    train_end: datetime | None = time_field()
    test_start: datetime | None = time_field()
    test_end: datetime | None = time_field()
    """Half-open windows of event time: [start, end)."""
    train_rows: int | None = None
    test_rows: int | None = None
    train_label_mean: float | None = None
    statistics: dict[str, Any] = json_field()
    """Per split and column: count, missing, mean, standard deviation, quantiles or top values."""
    progress: dict[str, Any] = json_field()
    created_at: datetime = created_field()
