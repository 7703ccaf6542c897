"""What serves: one pointer a pipeline, and the append-only story of its changes. Written by serving alone.

The database refuses a live version without a verdict that promotes it, unless the change names an override
(trigger `deployments_need_verdict`), and notifies `shared.contracts.tasks.DEPLOYMENT_CHANNEL` of every change.
"""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import UtcTime, created_field, text_field, time_field


class Deployment(SQLModel, table=True):
    """The deployment pointer: changed by compare-and-set on `generation`."""

    __tablename__ = "deployments"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    generation: int = Field(sa_type=BigInteger)
    """Grows by one at each change; replicas never apply an older one."""
    live_version_id: uuid.UUID = Field(foreign_key="versions.id")
    override: str | None = text_field()
    """Who lets this version live without a promoting verdict, and why; null when a verdict does."""
    updated_at: datetime = Field(sa_type=UtcTime, nullable=False)


class DeploymentChange(SQLModel, table=True):
    """One change of the pointer: what, who, why, on which verdict."""

    __tablename__ = "deployment_history"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    generation: int = Field(sa_type=BigInteger, primary_key=True)
    action: str
    """promote or rollback."""
    version_id: uuid.UUID = Field(foreign_key="versions.id")
    previous_version_id: uuid.UUID | None = Field(default=None, foreign_key="versions.id")
    actor: str
    """Name of the API key."""
    reason: str = text_field(default="")
    validation_id: uuid.UUID | None = Field(default=None, foreign_key="validations.id")
    override: str | None = text_field()
    effective_at: datetime | None = time_field()
    """In a replay: the simulated moment of the release (the candidate's as_of); else null."""
    created_at: datetime = created_field()
