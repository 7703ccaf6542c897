"""Bodies and answers of the data service's routes."""

import uuid
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from shared.registry.states import DatasetState
from shared.registry.tables import Dataset, Pipeline, QuarantinedRow, SpecVersion
from shared.web.moments import Moment


class PipelineView(BaseModel):
    """A pipeline and its current spec."""

    name: str
    spec_version: int
    digest: str
    spec: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, pipeline: Pipeline, version: SpecVersion) -> Self:
        """From the rows."""
        return cls(
            name=pipeline.name,
            spec_version=version.number,
            digest=version.digest,
            spec=version.spec,
            created_at=pipeline.created_at,
        )


class SpecVersionView(BaseModel):
    """One immutable version of the spec."""

    number: int
    digest: str
    created_by: str
    created_at: datetime
    changes: list[str]
    """What differs from the version before it."""


class PipelineDetail(PipelineView):
    """A pipeline with the history of its spec, newest first."""

    versions: list[SpecVersionView]


class PipelineApplied(BaseModel):
    """What applying a spec did, or would do."""

    name: str
    action: str = Field(description="create, update or unchanged")
    spec_version: int
    digest: str
    changes: list[str]
    dry_run: bool


class RefusedRow(BaseModel):
    """A row kept in quarantine."""

    index: int
    """Its place in the upload, from 0."""
    reason: str


class RowVerdicts(BaseModel):
    """What became of each row."""

    accepted: int
    duplicates: int
    """Known before: nothing changed."""
    quarantined: list[RefusedRow]


class QuarantineView(BaseModel):
    """A row that could not be taken."""

    id: int
    kind: str
    reason: str
    payload: str
    """The row as JSON text, every character outside of ASCII escaped, cut at 64 KiB."""
    times: int
    """How often it was sent and refused for this reason: sent again, it is counted and not kept again."""
    received_at: datetime
    """The first time."""
    last_received_at: datetime

    @classmethod
    def of(cls, row: QuarantinedRow) -> Self:
        """From the row."""
        assert row.seq is not None
        return cls(
            id=row.seq,
            kind=row.kind,
            reason=row.reason,
            payload=row.payload,
            times=row.times,
            received_at=row.received_at,
            last_received_at=row.last_received_at,
        )


class DatasetCreate(BaseModel):
    """What a dataset is asked for with."""

    model_config = ConfigDict(extra="forbid")

    as_of: Moment | None = None
    """Nothing that happened or became known later is in it; absent: now."""
    cycle: uuid.UUID | None = None
    """The retraining cycle it is for."""


class DatasetView(BaseModel):
    """One dataset version and how far its build is."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    id: uuid.UUID
    state: DatasetState
    spec_version: int
    as_of: datetime
    cycle_id: uuid.UUID | None
    digest: str | None
    event_watermark: int | None
    label_watermark: int | None
    prediction_watermark: int | None
    train_start: datetime | None
    train_end: datetime | None
    test_start: datetime | None
    test_end: datetime | None
    train_rows: int | None
    test_rows: int | None
    train_label_mean: float | None
    progress: dict[str, Any]
    attempt: int
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Dataset) -> Self:
        """From the row."""
        return cls.model_validate(row)


class Verification(BaseModel):
    """A dataset built again, as it was, from the events, labels and predictions of then."""

    number: int
    same: bool
    """Whether the rebuilt dataset has the digest of the stored one."""
    same_rows: bool
    """Whether it has the same rows; with another engine version the files' bytes may differ while the rows do not."""
    digest: str
    rebuilt_digest: str
