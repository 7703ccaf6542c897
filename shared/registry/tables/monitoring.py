"""Live quality by day, and alerts. Written by the validator alone."""

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from shared.registry.tables.columns import UtcTime, created_field, id_field, json_field, text_field, time_field


class MonitoringDay(SQLModel, table=True):
    """One UTC day of event time of a pipeline's live (not pinned) predictions, with the truth known so far.

    One row a key: its earliest live prediction, as in datasets.
    """

    __tablename__ = "monitoring_days"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    day: date = Field(primary_key=True)
    predictions: int
    labelled: int
    mean_prediction: float
    mean_label: float | None = None
    bias: float
    """Mean prediction minus the label mean of the training set of the model that answered."""
    label_bias: float | None = None
    """Mean prediction minus mean label, over the labelled rows alone."""
    loss: float | None = None
    """Log loss (binary) or RMSE (regression) of the labelled rows."""
    auc: float | None = None
    versions: list[int] = Field(sa_type=JSONB)
    """Numbers of the versions that answered."""
    model_age_s: float
    """From the answering models' as_of to the predictions' event times, mean, seconds."""
    computed_at: datetime = Field(sa_type=UtcTime, nullable=False)


class MonitoringWatermark(SQLModel, table=True):
    """How far monitoring has read the prediction log and the labels of a pipeline."""

    __tablename__ = "monitoring_watermarks"

    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id", primary_key=True)
    prediction_seq: int = Field(default=0, sa_type=BigInteger)
    label_seq: int = Field(default=0, sa_type=BigInteger)


class Alert(SQLModel, table=True):
    """Something a person should look at."""

    __tablename__ = "alerts"
    __table_args__ = (Index("alerts_pipeline", "pipeline_id", "id"),)

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    kind: str
    """candidate-worse, candidate-insane, cycle-failed, ..."""
    severity: str
    """warning or critical."""
    message: str = text_field(default="")
    detail: dict[str, Any] = json_field()
    validation_id: uuid.UUID | None = Field(default=None, foreign_key="validations.id")
    """Several alerts may be about one: serving can refuse it each time it is approved."""
    webhook_attempts: int = 0
    delivered_at: datetime | None = time_field()
    acknowledged_at: datetime | None = time_field()
    acknowledged_by: str | None = text_field()
    created_at: datetime = created_field()
