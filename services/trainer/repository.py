"""The trainer's SQL on pipelines, datasets, runs and versions. What is about cycles, schedules and lists stands beside it."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlmodel import Session, col

from shared.errors import NotFound
from shared.registry.tables import Dataset, Deployment, ModelVersion, Pipeline, Run, RunProgress, SpecVersion
from shared.spec import PipelineSpec


def database_now(session: Session) -> datetime:
    """The start of the transaction by the database's clock."""
    now = session.scalar(select(func.now()))
    assert isinstance(now, datetime)
    return now


def pipeline_named(session: Session, name: str) -> Pipeline:
    """The pipeline.

    Raises:
        NotFound: there is none of that name.
    """
    pipeline = session.scalars(select(Pipeline).where(col(Pipeline.name) == name)).one_or_none()
    if pipeline is None:
        raise NotFound(f"There is no pipeline {name}; apply its file first.")
    return pipeline


def pipeline_names(session: Session) -> Sequence[str]:
    """Every pipeline, by name."""
    return session.scalars(select(col(Pipeline.name)).order_by(col(Pipeline.name))).all()


def spec_of(session: Session, pipeline_id: uuid.UUID, number: int) -> PipelineSpec:
    """One spec version, as validated model."""
    row = session.get_one(SpecVersion, (pipeline_id, number))
    return PipelineSpec.model_validate(row.spec)


def spec_row(session: Session, pipeline: Pipeline) -> SpecVersion:
    """The pipeline's current spec version."""
    return session.get_one(SpecVersion, (pipeline.id, pipeline.spec_version))


def dataset_numbered(session: Session, pipeline_id: uuid.UUID, number: int) -> Dataset:
    """One dataset of a pipeline.

    Raises:
        NotFound: it has no dataset of that number.
    """
    row = session.scalars(
        select(Dataset).where(col(Dataset.pipeline_id) == pipeline_id, col(Dataset.number) == number)
    ).one_or_none()
    if row is None:
        raise NotFound(f"This pipeline has no dataset {number}.")
    return row


def run_of(session: Session, pipeline_id: uuid.UUID, run_id: uuid.UUID, *, lock: bool = False) -> Run:
    """One run of a pipeline.

    Raises:
        NotFound: it has no such run.
    """
    query = select(Run).where(col(Run.id) == run_id, col(Run.pipeline_id) == pipeline_id)
    run = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if run is None:
        raise NotFound(f"This pipeline has no run {run_id}.")
    return run


def version_of_run(session: Session, run_id: uuid.UUID) -> ModelVersion | None:
    """The version a run made, if it succeeded."""
    return session.scalars(select(ModelVersion).where(col(ModelVersion.run_id) == run_id)).one_or_none()


def progress_of(session: Session, run: Run) -> Sequence[RunProgress]:
    """The epochs of the run's latest attempt, in order."""
    return session.scalars(
        select(RunProgress)
        .where(col(RunProgress.run_id) == run.id, col(RunProgress.fence) == run.fence)
        .order_by(col(RunProgress.epoch))
    ).all()


def next_version_number(session: Session, pipeline_id: uuid.UUID) -> int:
    """One more than the highest; concurrent callers wait for each other until their transactions end."""
    session.execute(
        text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"version-{pipeline_id}"}
    )
    highest = session.scalar(select(func.max(ModelVersion.number)).where(col(ModelVersion.pipeline_id) == pipeline_id))
    return (highest or 0) + 1


def deployed_pipelines(session: Session) -> Sequence[uuid.UUID]:
    """Pipelines that have a live model."""
    return session.scalars(select(col(Deployment.pipeline_id))).all()


def ensure_partitions(session: Session) -> None:
    """Make this and the next month's partitions of the prediction log."""
    for months in (0, 1):
        month: Any = func.date_trunc("month", func.now(), "UTC") + func.make_interval(0, months)
        session.execute(select(func.ensure_prediction_partition(month)))
