"""Training runs and their progress. Written by the trainer alone."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from shared.registry.states import RunState
from shared.registry.tables.columns import LeasedWork, created_field, id_field, json_field


class Run(LeasedWork, table=True):
    """One training of one dataset; a succeeded run has exactly one model version."""

    __tablename__ = "runs"
    __table_args__ = (Index("runs_open", "state", postgresql_where="state in ('queued', 'running')"),)

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", index=True)
    dataset_id: uuid.UUID = Field(foreign_key="datasets.id", index=True)
    cycle_id: uuid.UUID | None = Field(default=None, index=True)
    spec_version: int
    state: str = Field(default=RunState.QUEUED)
    seed: int
    cancel_requested: bool = False
    progress: dict[str, Any] = json_field()
    """Where it stands now: step, epoch, epochs, losses."""
    metrics: dict[str, Any] = json_field()
    """Of the finished model: losses, parity with torch, seconds for each step."""
    environment: dict[str, Any] = json_field()
    """What it ran with: code and library versions, device, hardware."""
    created_at: datetime = created_field()


class RunProgress(SQLModel, table=True):
    """One line of a run's history."""

    __tablename__ = "run_progress"

    run_id: uuid.UUID = Field(foreign_key="runs.id", primary_key=True)
    fence: int = Field(primary_key=True)
    """Which attempt wrote it."""
    epoch: int = Field(primary_key=True)
    train_loss: float
    valid_loss: float | None = None
    is_best: bool
    seconds: float
    created_at: datetime = created_field()
