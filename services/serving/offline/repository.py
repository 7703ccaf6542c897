"""SQL on generations of offline predictions."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlmodel import Session, col

from services.serving.models.catalogue import Offline
from shared.contracts.tasks import DEPLOYMENT_CHANNEL
from shared.errors import NotFound
from shared.jobs.lease import nudge
from shared.jobs.work import PRECOMPUTE
from shared.registry.states import DatasetState, PrecomputeState
from shared.registry.tables import Dataset, Deployment, ModelVersion, Pipeline, Precompute, SpecVersion
from shared.web.pagination import PageRequest, newest_first


def database_now(session: Session) -> datetime:
    """The transaction's time by the database's clock."""
    return session.scalars(select(func.now())).one()


# Asking for generations


def lock_pipeline(session: Session, pipeline_id: uuid.UUID) -> Pipeline:
    """The pipeline; nobody else numbers a generation of it until the transaction ends. Rows that refer to it may come meanwhile."""
    return session.get_one(Pipeline, pipeline_id, with_for_update={"key_share": True})


def current_spec(session: Session, pipeline: Pipeline) -> SpecVersion:
    """The pipeline's newest spec version."""
    return session.get_one(SpecVersion, (pipeline.id, pipeline.spec_version))


def add(
    session: Session,
    pipeline: Pipeline,
    source: Mapping[str, Any],
    *,
    trigger: str,
    requested_by: str,
    slot: datetime | None = None,
) -> Precompute | None:
    """A new generation of a pipeline that the caller has locked, queued, and its nudge; None when the slot was taken before."""
    last = session.scalar(select(func.max(Precompute.number)).where(col(Precompute.pipeline_id) == pipeline.id))
    row = Precompute(
        pipeline_id=pipeline.id,
        number=(last or 0) + 1,
        source=dict(source),
        trigger=trigger,
        requested_by=requested_by,
        slot=slot,
    )
    values = row.model_dump(exclude={"created_at"})
    statement = insert(Precompute).values(**values).on_conflict_do_nothing(constraint="precomputes_pipeline_slot")
    if session.execute(statement.returning(col(Precompute.id))).one_or_none() is None:
        return None
    nudge(session, PRECOMPUTE, row.id)
    return session.get_one(Precompute, row.id)


def queued(session: Session, pipeline_id: uuid.UUID) -> Sequence[Precompute]:
    """The generations that nobody has taken up yet, oldest first; nobody takes them up before the transaction ends."""
    query = select(Precompute).where(
        col(Precompute.pipeline_id) == pipeline_id, col(Precompute.state) == PrecomputeState.QUEUED
    )
    return session.scalars(query.order_by(col(Precompute.number)).with_for_update()).all()


def has_open(session: Session, pipeline_id: uuid.UUID) -> bool:
    """Whether a generation waits or is at work."""
    query = select(col(Precompute.id)).where(
        col(Precompute.pipeline_id) == pipeline_id,
        col(Precompute.state).in_([PrecomputeState.QUEUED, PrecomputeState.RUNNING]),
    )
    return session.scalar(query.limit(1)) is not None


def get(session: Session, pipeline_id: uuid.UUID, number: int) -> Precompute:
    """One generation by number.

    Raises:
        NotFound: there is none.
    """
    query = select(Precompute).where(col(Precompute.pipeline_id) == pipeline_id, col(Precompute.number) == number)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotFound("This pipeline has no generation of that number.")
    return row


def listed(session: Session, pipeline_id: uuid.UUID, page: PageRequest[int]) -> Sequence[Precompute]:
    """Generations of a pipeline, newest first."""
    query = select(Precompute).where(col(Precompute.pipeline_id) == pipeline_id)
    return session.scalars(newest_first(query, Precompute.number, page)).all()


def nudge_next(session: Session, pipeline_id: uuid.UUID) -> None:
    """The generation that waited for another one of its pipeline is nudged again."""
    waiting = [row for row in queued(session, pipeline_id) if row.lease_until is None]
    if waiting:
        nudge(session, PRECOMPUTE, waiting[0].id)


# The schedule


def scheduled_pipelines(session: Session) -> Sequence[uuid.UUID]:
    """Pipelines whose current spec has a schedule for offline predictions."""
    query = (
        select(col(Pipeline.id))
        .join(
            SpecVersion,
            (col(SpecVersion.pipeline_id) == col(Pipeline.id))
            & (col(SpecVersion.number) == col(Pipeline.spec_version)),
        )
        .where(_schedule().is_not(None))
    )
    return session.scalars(query).all()


def schedule_set_at(session: Session, spec: SpecVersion) -> datetime:
    """Since when the schedule is what it is: a new spec version with the same one changes nothing."""
    own = col(SpecVersion.pipeline_id) == spec.pipeline_id
    cron = spec.spec["offline"]["schedule"]
    other = select(func.coalesce(func.max(SpecVersion.number), 0)).where(own, _schedule().is_distinct_from(cron))
    since = session.scalar(
        select(func.min(SpecVersion.created_at)).where(own, col(SpecVersion.number) > other.scalar_subquery())
    )
    assert isinstance(since, datetime)
    return since


def last_slot(session: Session, pipeline_id: uuid.UUID) -> datetime | None:
    """The newest slot that was taken."""
    return session.scalar(select(func.max(Precompute.slot)).where(col(Precompute.pipeline_id) == pipeline_id))


def _schedule() -> Any:
    return col(SpecVersion.spec)["offline"]["schedule"].as_string()


# What generations are made of


def live_version(session: Session, pipeline_id: uuid.UUID) -> ModelVersion | None:
    """The version in production."""
    query = select(ModelVersion).join(Deployment, col(Deployment.live_version_id) == col(ModelVersion.id))
    return session.scalars(query.where(col(Deployment.pipeline_id) == pipeline_id)).one_or_none()


def ready_dataset(session: Session, pipeline_id: uuid.UUID, number: int | None) -> Dataset | None:
    """The dataset of that number, or the newest one, if it is ready."""
    query = select(Dataset).where(
        col(Dataset.pipeline_id) == pipeline_id,
        col(Dataset.state) == DatasetState.READY,
        col(Dataset.digest).is_not(None),
    )
    if number is not None:
        query = query.where(col(Dataset.number) == number)
    return session.scalars(query.order_by(col(Dataset.number).desc()).limit(1)).one_or_none()


# Ready generations


def announce(session: Session) -> None:
    """Tell the replicas, once the transaction commits, to read the registry."""
    session.execute(text("select pg_notify(:channel, '')"), {"channel": DEPLOYMENT_CHANNEL})


def ready(session: Session, pipeline_id: uuid.UUID) -> Sequence[Precompute]:
    """The generations whose files are kept, newest first."""
    query = select(Precompute).where(
        col(Precompute.pipeline_id) == pipeline_id, col(Precompute.state) == PrecomputeState.READY
    )
    return session.scalars(query.order_by(col(Precompute.number).desc())).all()


def current(session: Session) -> dict[uuid.UUID, Offline]:
    """The generation that answers, by pipeline: the newest one that is ready."""
    query = (
        select(
            col(Precompute.pipeline_id),
            col(Precompute.number),
            col(Precompute.digest),
            col(ModelVersion.number),
            col(Precompute.computed_at),
        )
        .join(ModelVersion, col(ModelVersion.id) == col(Precompute.version_id))
        .where(col(Precompute.state) == PrecomputeState.READY)
        .ext(distinct_on(col(Precompute.pipeline_id)))
        .order_by(col(Precompute.pipeline_id), col(Precompute.number).desc())
    )
    return {row[0]: Offline(row[1], row[2], row[3], row[4]) for row in session.execute(query)}
