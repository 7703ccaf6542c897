"""What a shadow scored, beside what was answered. Written by serving's shadow process."""

import uuid
from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, Column, Float, Identity, Index
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import created_field, time_field


class ShadowComparison(SQLModel, table=True):
    """One answered request scored again by the shadow. No prediction: losing one is allowed."""

    __tablename__ = "shadow_comparisons"
    __table_args__ = (
        Index("shadow_comparisons_of_version", "pipeline_id", "shadow_version_id", "id"),
        Index("shadow_comparisons_by_age", "compared_at"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True, nullable=False)
    )
    request_id: uuid.UUID
    requested_at: datetime = time_field(nullable=False)
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    live_version_id: uuid.UUID = Field(foreign_key="versions.id")
    shadow_version_id: uuid.UUID = Field(foreign_key="versions.id")
    generation: int = Field(sa_type=BigInteger)
    """The deployment generation that answered."""
    live_scores: list[float] = Field(sa_type=ARRAY(Float))
    """As the live version scored, before any stage of post-processing; a row each."""
    shadow_scores: list[float] = Field(sa_type=ARRAY(Float))
    live_run_us: int
    """Processor time of feeding and running each model once more with the same rows in the same process."""
    shadow_run_us: int
    compared_at: datetime = created_field()
