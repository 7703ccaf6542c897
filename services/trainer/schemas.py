"""What the trainer's endpoints take and give."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.registry.states import CycleState, RunState, VersionState
from shared.registry.tables import Cycle, ModelVersion, Run, RunProgress
from shared.spec.cron import parse_cron
from shared.spec.types import Text
from shared.web.moments import Moment

Number = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CycleCreate(_Body):
    """Ask for one pass through the loop."""

    as_of: Moment | None = None
    """Use only what was known then; by default now. Never in the future."""


class RunCreate(_Body):
    """Ask for one training."""

    dataset: Number
    """Number of a ready dataset."""


class ScheduleChange(_Body):
    """Replace the schedule. What is left out goes back to its default."""

    cron: Annotated[Text, AfterValidator(parse_cron)] | None = None
    """Five fields, UTC; null: the pipeline file's `schedule`."""
    paused: Annotated[bool, Field(strict=True)] = False
    """No cycle starts by itself; slots missed meanwhile are not caught up."""


class ScheduleView(BaseModel):
    """When cycles start by themselves."""

    cron: str | None
    """What applies; null: never."""
    source: str
    """`pipeline`: from the pipeline file; `schedule`: set here."""
    paused: bool
    last_slot: datetime | None
    """The newest slot that started a cycle."""
    changed_by: str | None
    changed_at: datetime | None


class CycleView(BaseModel):
    """One pass through the loop."""

    id: uuid.UUID
    pipeline: str
    state: CycleState
    trigger: str
    as_of: datetime
    slot: datetime | None
    spec_version: int
    """That of its dataset, once it has one."""
    dataset: int | None
    """Number of its dataset."""
    run_id: uuid.UUID | None
    version: int | None
    """Number of the version it trained."""
    validation_id: uuid.UUID | None
    reason: str | None
    """Why it ended as it did; the verdict's sentence when there is one."""
    requested_by: str
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Cycle, pipeline: str, numbers: tuple[int | None, int | None]) -> Self:
        """From the row and the numbers of its dataset and version."""
        plain = row.model_dump()
        return cls.model_validate({**plain, "pipeline": pipeline, "dataset": numbers[0], "version": numbers[1]})


class RunView(BaseModel):
    """One training run."""

    id: uuid.UUID
    pipeline: str
    state: RunState
    dataset: int | None
    version: int | None
    """Number of the version it made; null until it succeeded."""
    cycle_id: uuid.UUID | None
    spec_version: int
    seed: int
    attempt: int
    """How often it was tried; what an outage or the stop of its worker cut short is not counted."""
    worker: str | None
    progress: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    cancel_requested: bool
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Run, pipeline: str, numbers: tuple[int | None, int | None]) -> Self:
        """From the row and the numbers of its dataset and version."""
        plain = row.model_dump()
        return cls.model_validate({**plain, "pipeline": pipeline, "dataset": numbers[0], "version": numbers[1]})


class EpochView(BaseModel):
    """One epoch of the latest attempt."""

    epoch: int
    train_loss: float
    valid_loss: float | None
    is_best: bool
    seconds: float
    """Since the training began."""


class RunWithHistory(RunView):
    """One training run with its epochs."""

    epochs: list[EpochView] = []

    def with_epochs(self, rows: Sequence[RunProgress]) -> Self:
        """The same with its history."""
        return self.model_copy(update={"epochs": [EpochView.model_validate(row, from_attributes=True) for row in rows]})


class VersionView(BaseModel):
    """One model version."""

    number: int
    id: uuid.UUID
    pipeline: str
    state: VersionState
    run_id: uuid.UUID
    dataset: int | None
    spec_version: int
    digest: str
    """sha256 of the ONNX file."""
    size_bytes: int
    signature: dict[str, Any]
    metrics: dict[str, Any]
    as_of: datetime
    train_end: datetime
    train_label_mean: float
    created_at: datetime

    @classmethod
    def of(cls, row: ModelVersion, pipeline: str, dataset: int | None) -> Self:
        """From the row and the number of its dataset."""
        return cls.model_validate({**row.model_dump(), "pipeline": pipeline, "dataset": dataset})
