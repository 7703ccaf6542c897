"""Verdicts on candidates. Written by the validator alone."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Index, func
from sqlmodel import Field, col

from shared.registry.states import ValidationState
from shared.registry.tables.columns import LeasedWork, created_field, id_field, json_field, text_field, time_field


class Validation(LeasedWork, table=True):
    """One candidate judged against the model in production, on the same rows."""

    __tablename__ = "validations"
    __table_args__ = (Index("validations_open", "state", postgresql_where="state in ('queued', 'running')"),)

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", index=True)
    candidate_id: uuid.UUID = Field(foreign_key="versions.id", index=True)
    baseline_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    """What it was compared with; null for a first model."""
    requested_baseline_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    """A baseline named by the caller: such a comparison informs, and never releases."""
    cycle_id: uuid.UUID | None = Field(default=None, index=True)
    state: str = Field(default=ValidationState.QUEUED)
    decision: str | None = text_field()
    """promote, hold or reject; set with the verdict, and again by a person's approval or rejection."""
    sentence: str | None = text_field()
    """The verdict in one or two sentences, with its figures."""
    report: dict[str, Any] = json_field()
    """Metrics of both models, the interval, rows and days compared, latency."""
    baseline_generation: int | None = Field(default=None, sa_type=BigInteger)
    """Serving's generation when the baseline was read: the release is a compare-and-set against it."""
    release_state: str | None = text_field()
    """pending, done or conflict; null when nothing is to be released."""
    released_generation: int | None = Field(default=None, sa_type=BigInteger)
    rejudged: int = 0
    """How often a release conflict sent it back to be judged again."""
    decided_by: str | None = text_field()
    """Name of the API key that approved or rejected a held candidate."""
    decided_at: datetime | None = time_field()
    created_at: datetime = created_field()


def newest_decision_first() -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Order decisions as the database does when it looks for the one that lets a version live (`require_verdict`).

    By the moment of the decision: of two validations under way at once, the one asked for first may end last.
    """
    decided = func.coalesce(col(Validation.decided_at), col(Validation.finished_at))
    return decided.desc().nulls_last(), col(Validation.id).desc()
