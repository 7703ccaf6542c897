"""Cycles and the schedule that starts them. Written by the trainer alone."""

import uuid
from datetime import datetime

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from shared.registry.states import CycleState
from shared.registry.tables.columns import UtcTime, created_field, id_field, text_field, time_field


class Cycle(SQLModel, table=True):
    """One pass through the loop: dataset, training, validation, release."""

    __tablename__ = "cycles"
    __table_args__ = (
        Index("cycles_open", "state", postgresql_where="state in ('queued', 'dataset', 'training', 'validating')"),
    )

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", index=True)
    state: str = Field(default=CycleState.QUEUED)
    trigger: str
    """manual or schedule."""
    as_of: datetime = time_field(nullable=False)
    slot: datetime | None = time_field()
    """The cron slot that started it."""
    spec_version: int
    dataset_id: uuid.UUID | None = Field(default=None, foreign_key="datasets.id")
    run_id: uuid.UUID | None = Field(default=None, foreign_key="runs.id")
    version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    validation_id: uuid.UUID | None = Field(default=None, foreign_key="validations.id")
    reason: str | None = text_field()
    """Why it ended as it did."""
    nudged_at: datetime | None = time_field()
    advanced_at: datetime | None = time_field()
    """When it was last looked at."""
    requested_by: str = text_field(default="")
    created_at: datetime = created_field()
    finished_at: datetime | None = time_field()


class Schedule(SQLModel, table=True):
    """When cycles start by themselves. Without a row, the spec's `schedule` applies."""

    __tablename__ = "schedules"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    cron: str | None = text_field()
    """Five fields, UTC; null: the spec's."""
    paused: bool = False
    changed_by: str = text_field(default="")
    changed_at: datetime = created_field()


class ScheduleSlot(SQLModel, table=True):
    """One due slot. Its key makes two schedulers harmless: only one insert wins."""

    __tablename__ = "schedule_slots"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    slot: datetime = Field(sa_type=UtcTime, primary_key=True)
    cycle_id: uuid.UUID | None = Field(default=None, foreign_key="cycles.id")
    """Null: the slot was passed over (paused, or older than the one caught up)."""
    created_at: datetime = created_field()
