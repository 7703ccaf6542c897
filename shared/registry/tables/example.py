"""What examples are made of: events, labels, logged predictions, and the rows that were refused. All append-only but the last.

Sequences commit out of order, so no reader may trust "the last seq seen". Writers hold `shared.registry.ingest_lock` shared;
a dataset takes it exclusively for a moment to read its watermark, and every row up to that watermark is then final.
"""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Float,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import UtcTime, created_field, json_field, text_field, time_field


def _seq(*, primary_key: bool = True) -> Any:
    return Field(
        default=None,
        sa_column=Column("seq", BigInteger, Identity(always=False), primary_key=primary_key, nullable=False),
    )


class Event(SQLModel, table=True):
    """One application event as sent: the features of one example. The first content under a key wins."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("pipeline_id", "key", name="events_pipeline_key"),
        Index("events_pipeline_time", "pipeline_id", "event_time"),
    )

    seq: int | None = _seq()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    key: str = Field(sa_type=Text)
    event_time: datetime = time_field(nullable=False)
    """When it happened in the world."""
    available_at: datetime = time_field(nullable=False)
    """When it was known in the world; never later than `received_at`."""
    received_at: datetime = created_field()
    content_digest: str
    """sha256 hex of event time and the payload's canonical JSON: the same key with another digest is a conflict."""
    payload: dict[str, Any] = json_field()
    """The raw features, entity and columns by name (no key, time or label), as `shared.instances` has them."""
    spec_version: int


class Label(SQLModel, table=True):
    """One statement of ground truth. Many may exist for an example; `shared.labels` says which is effective."""

    __tablename__ = "labels"
    __table_args__ = (
        UniqueConstraint("pipeline_id", "content_digest", name="labels_pipeline_content"),
        Index("labels_pipeline_key", "pipeline_id", "key"),
        Index("labels_request", "request_id"),
        Index("labels_by_prediction", "pipeline_id", "seq", postgresql_where="request_id is not null"),
    )

    seq: int | None = _seq()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    key: str | None = Field(default=None, sa_type=Text)
    """The example's key; null when the sender named a prediction id instead."""
    request_id: uuid.UUID | None = None
    """With `row_index`: the prediction it is about (its log row may land later)."""
    row_index: int | None = None
    label: float = Field(sa_type=Double)
    label_time: datetime = time_field(nullable=False)
    """When the truth became known."""
    available_at: datetime = time_field(nullable=False)
    received_at: datetime = created_field()
    source: str
    """explicit, event or implicit."""
    source_rank: int
    """Higher beats lower, whatever the order of arrival."""
    content_digest: str
    """sha256 hex over what it is about, label, label_time and source: a repeated label is a duplicate."""


class ResolvedLabel(SQLModel, table=True):
    """The key of a label that names a prediction, as the log has it. Derived, by `services.data.resolution` alone."""

    __tablename__ = "resolved_labels"
    __table_args__ = (Index("resolved_labels_pipeline_key", "pipeline_id", "key"),)

    label_seq: int = Field(sa_type=BigInteger, primary_key=True)
    prediction_seq: int = Field(sa_type=BigInteger, primary_key=True)
    """A dataset whose watermark of predictions is lower does not know the key."""
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    key: str = Field(sa_type=Text)


class ResolutionWatermark(SQLModel, table=True):
    """Up to which sequences of the log and of the labels a pipeline's labels are resolved."""

    __tablename__ = "resolution_watermarks"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    prediction_seq: int = Field(default=0, sa_type=BigInteger)
    label_seq: int = Field(default=0, sa_type=BigInteger)


class PredictionRequest(SQLModel, table=True):
    """One answered /predict request; partitioned by month of the request id's time. Written by serving's log shipper."""

    __tablename__ = "prediction_requests"
    __table_args__ = (
        PrimaryKeyConstraint("request_id", "requested_at"),
        Index("prediction_requests_pipeline_seq", "pipeline_id", "seq"),
        Index(
            "prediction_requests_pipeline_time",
            "pipeline_id",
            text("last_moment(event_times)"),
            text("first_moment(event_times)"),
        ),
        {"postgresql_partition_by": "RANGE (requested_at)"},
    )

    request_id: uuid.UUID
    requested_at: datetime = time_field(nullable=False)
    """The request id's own time, so that the pair is a function of the id and a repeated row is recognised."""
    seq: int | None = _seq(primary_key=False)
    pipeline_id: uuid.UUID
    version_id: uuid.UUID
    version_number: int
    generation: int
    """The deployment generation that answered."""
    pinned: bool = False
    """The caller named the version: kept out of datasets and live monitoring."""
    role: str = Field(default="live", sa_column_kwargs={"server_default": "live"})
    """As what the version answered: live, canary (in the live one's stead, as good as live) or pinned."""
    keys: list[str] = Field(sa_type=ARRAY(Text))
    event_times: list[datetime] = Field(sa_type=ARRAY(UtcTime))
    available_ats: list[datetime] = Field(sa_type=ARRAY(UtcTime))
    instances: list[dict[str, Any]] = Field(sa_type=JSONB)
    """Raw features, entity and columns of each row, as sent (no key, time or available_at)."""
    scores: list[float] = Field(sa_type=ARRAY(Float))
    """The model's, raw: what datasets, monitoring and feedback go by."""
    final_scores: list[float | None] | None = Field(default=None, sa_type=ARRAY(Float))
    """What was answered after post-processing, null for a row that was removed or did not come into the list; null as a whole when
    nothing was processed."""
    stages_number: int | None = Field(default=None, sa_type=Integer)
    """Number of the order (`stages_history`) whose stages were done; null when they were a spec's."""
    stages_spec: int | None = Field(default=None, sa_type=Integer)
    """Version of the spec whose stages were done; null when they were ordered."""
    removals: int | None = Field(default=None, sa_type=BigInteger)
    """Sequence of the removal list (`removal_history`) that was applied; 0 before its first change."""
    latency_us: int = Field(sa_type=Integer)
    api_key_id: str
    caller_request_id: str = text_field(default="")
    """The HTTP request id, as in logs."""
    logged_at: datetime = created_field()


class QuarantinedRow(SQLModel, table=True):
    """A row that could not be taken, kept with the reason. It never aborts its batch. Sent again, it is counted, not kept again."""

    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("pipeline_id", "kind", "content_digest", name="quarantine_pipeline_content"),)

    seq: int | None = _seq()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", index=True)
    kind: str
    """event or label."""
    reason: str = text_field(default="")
    payload: str = text_field(default="")
    """The row as JSON text with every non-ASCII and control character escaped, cut at 64 KiB."""
    content_digest: str = Field(sa_type=Text)
    """sha256 hex of reason and payload, with the unit separator (31) between."""
    times: int = Field(default=1, sa_type=Integer, sa_column_kwargs={"server_default": "1"})
    """How often it was sent."""
    received_at: datetime = created_field()
    """The first time."""
    last_received_at: datetime = created_field()
