"""Model versions. Written by the trainer at the end of a run; only the validator moves `state` afterwards, with its verdict."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, UniqueConstraint
from sqlmodel import Field, SQLModel

from shared.registry.states import VersionState
from shared.registry.tables.columns import created_field, id_field, json_field, time_field


class ModelVersion(SQLModel, table=True):
    """One self-contained ONNX file and where it came from."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("pipeline_id", "number", name="versions_pipeline_number"),)

    id: uuid.UUID = id_field()
    pipeline_id: uuid.UUID = Field(foreign_key="pipelines.id")
    number: int
    run_id: uuid.UUID = Field(foreign_key="runs.id", unique=True)
    dataset_id: uuid.UUID = Field(foreign_key="datasets.id")
    spec_version: int
    state: str = Field(default=VersionState.CANDIDATE)
    digest: str
    """sha256 of the ONNX file in the artifact store."""
    size_bytes: int = Field(sa_type=BigInteger)
    signature: dict[str, Any] = json_field()
    """`{"inputs": [{"name", "kind", "required", "length"?}], "output": "score", "task", "golden"?}`. `golden` is the digest of the
    version's golden vectors (`shared.golden`); versions of before they came have none."""
    metrics: dict[str, Any] = json_field()
    as_of: datetime = time_field(nullable=False)
    """The dataset's as_of: how fresh its knowledge is."""
    train_end: datetime = time_field(nullable=False)
    """No training row is at or after this event time."""
    train_label_mean: float
    created_at: datetime = created_field()
