"""What serves: one pointer a pipeline, and the append-only story of its changes. Written by serving alone.

The database refuses a live version or a canary without a verdict that promotes it, unless the change names an override
(trigger `deployments_need_verdict`), and notifies `shared.contracts.tasks.DEPLOYMENT_CHANNEL` of every change. A shadow answers
nobody, and needs no verdict.
"""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import UtcTime, created_field, text_field, time_field


class Deployment(SQLModel, table=True):
    """The deployment pointer: changed by compare-and-set on `generation`."""

    __tablename__ = "deployments"
    __table_args__ = (
        CheckConstraint("canary_version_id <> live_version_id", name="deployments_canary_is_not_live"),
        CheckConstraint("shadow_version_id <> live_version_id", name="deployments_shadow_is_not_live"),
        CheckConstraint(
            "num_nulls(canary_version_id, canary_weight) in (0, 2) and canary_weight > 0 and canary_weight <= 1",
            name="deployments_canary_weight",
        ),
        CheckConstraint(
            "num_nulls(shadow_version_id, shadow_sample) in (0, 2) and shadow_sample > 0 and shadow_sample <= 1",
            name="deployments_shadow_sample",
        ),
    )

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    generation: int = Field(sa_type=BigInteger)
    """Grows by one at each change; replicas never apply an older one."""
    live_version_id: uuid.UUID = Field(foreign_key="versions.id")
    override: str | None = text_field()
    """Who lets this version live without a promoting verdict, and why; null when a verdict does."""
    canary_version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    """Answers a share of the requests in the live version's stead."""
    canary_weight: float | None = None
    """That share, above 0, at most 1; null without a canary."""
    canary_override: str | None = text_field()
    """Who lets the canary answer without a promoting verdict, and why; null when a verdict does."""
    shadow_version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    """Scores a share of what the live version answers, for comparison alone."""
    shadow_sample: float | None = None
    """That share, above 0, at most 1; null without a shadow."""
    updated_at: datetime = Field(sa_type=UtcTime, nullable=False)


class DeploymentChange(SQLModel, table=True):
    """One change of the pointer: what, who, why, on which verdict; and all that the pointer says after it."""

    __tablename__ = "deployment_history"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    generation: int = Field(sa_type=BigInteger, primary_key=True)
    action: str
    """promote, rollback, canary or shadow."""
    version_id: uuid.UUID = Field(foreign_key="versions.id")
    """The live version, which a canary or a shadow leaves as it is."""
    previous_version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    """What was live before it."""
    canary_version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    canary_weight: float | None = None
    shadow_version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    shadow_sample: float | None = None
    actor: str
    """Name of the API key."""
    reason: str = text_field(default="")
    validation_id: uuid.UUID | None = Field(default=None, foreign_key="validations.id")
    override: str | None = text_field()
    """Of the live version; in a change of the canary, of the canary."""
    effective_at: datetime | None = time_field()
    """In a replay: the simulated moment of the release (the candidate's as_of); else null."""
    created_at: datetime = created_field()
