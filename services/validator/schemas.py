"""What the validator's endpoints take and give."""

import uuid
from datetime import date, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from services.validator.monitoring_repository import Live
from services.validator.repository import Numbered
from shared.registry.states import Decision, ReleaseState, ValidationState
from shared.registry.tables import Alert, MonitoringDay
from shared.spec.types import Text

VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]


class ValidationCreate(BaseModel):
    """Ask for a verdict on a version."""

    model_config = ConfigDict(extra="forbid")

    candidate: VersionNumber
    """Number of the version to judge."""
    baseline: VersionNumber | None = None
    """Compare with this version instead of the one in production. Such a comparison informs only: it releases nothing."""
    cycle: uuid.UUID | None = None
    """The retraining cycle that asks."""


class Verdict(BaseModel):
    """One validation, as listed."""

    id: uuid.UUID
    pipeline: str
    candidate: int
    baseline: int | None
    """What it was compared with; null before the verdict and for a first model."""
    requested_baseline: int | None
    cycle: uuid.UUID | None
    state: ValidationState
    decision: Decision | None
    """What follows: null before the verdict, and for a comparison with a named baseline."""
    sentence: str | None
    """The verdict in words, with its figures."""
    reason: str | None
    """Why it failed, was rejected, is held again or waits."""
    release_state: ReleaseState | None
    released_generation: int | None
    rejudged: int
    decided_by: str | None
    decided_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, numbered: Numbered) -> Self:
        """From the row."""
        numbers = {
            "pipeline": numbered.pipeline,
            "candidate": numbered.candidate,
            "baseline": numbered.baseline,
            "requested_baseline": numbered.requested_baseline,
            "cycle": numbered.row.cycle_id,
        }
        return cls(**numbered.row.model_dump(include=set(cls.model_fields) - set(numbers)), **numbers)


class VerdictWithReport(Verdict):
    """One validation in full."""

    baseline_generation: int | None
    """Serving's generation when the baseline was read."""
    report: dict[str, Any]
    """Metrics of both models, the bounds, rows and days compared, latency; empty before the verdict."""


class Approval(BaseModel):
    """A person's word on a held candidate."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[Text, Field(min_length=1, max_length=1000)]
    """Kept with the decision."""


class AlertView(BaseModel):
    """Something a person should look at."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    kind: str
    severity: str
    message: str
    detail: dict[str, Any]
    validation: Annotated[uuid.UUID | None, Field(validation_alias="validation_id")]
    webhook_attempts: int
    delivered_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: Alert) -> Self:
        """From the row."""
        return cls.model_validate(row)


class DayView(BaseModel):
    """One UTC day of event time."""

    model_config = ConfigDict(from_attributes=True)

    day: date
    predictions: int
    """Examples predicted by the model in production (its earliest prediction of each; pinned versions are left out)."""
    labelled: int
    mean_prediction: float
    mean_label: float | None
    bias: float
    """Mean prediction minus the label mean of the training set of the model that answered."""
    biased: bool
    """Whether `bias` is beyond `bias_tolerance`."""
    label_bias: float | None
    """Mean prediction minus mean label, over the labelled rows."""
    loss: float | None
    """Log loss (binary) or RMSE (regression) of the labelled rows."""
    auc: float | None
    versions: list[int]
    model_age_s: float
    """From the answering model's as_of to the event time, mean, seconds."""
    computed_at: datetime

    @classmethod
    def of(cls, row: MonitoringDay, bias_tolerance: float) -> Self:
        """From the row."""
        return cls(**row.model_dump(exclude={"pipeline_id"}), biased=abs(row.bias) > bias_tolerance)


class LiveView(BaseModel):
    """What serves now."""

    version: int
    generation: int
    as_of: datetime

    @classmethod
    def of(cls, live: Live) -> Self:
        """From the rows."""
        return cls(version=live.version, generation=live.generation, as_of=live.as_of)


class Monitoring(BaseModel):
    """How the models in production did, day by day, oldest first."""

    pipeline: str
    task: str
    bias_tolerance: float
    live: LiveView | None
    """Null while nothing was released."""
    up_to_date: bool
    """False while newer predictions or labels are about to be counted, which takes some seconds."""
    days: list[DayView]
