"""SQL of monitoring: which days changed, what was predicted on them, what became known, and the rows kept of it.

The log has no index by event time or key, so finding the days' predictions reads the pipeline's whole log, but only its narrow
columns: never the instances.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime

import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from services.validator.monitoring import DayQuality, Predictions
from shared.labels import EFFECTIVE_ORDER
from shared.registry.session import Sessions, ingest_settled
from shared.registry.tables import (
    Deployment,
    Label,
    ModelVersion,
    MonitoringDay,
    MonitoringWatermark,
    Pipeline,
    PredictionRequest,
)


@dataclass(frozen=True, slots=True)
class Watermark:
    """Highest sequence read of the prediction log and of the labels."""

    predictions: int
    labels: int


@dataclass(frozen=True, slots=True)
class Live:
    """A deployed pipeline, its live version, and the newest day known of it."""

    pipeline: str
    version: int
    generation: int
    as_of: datetime
    latest: MonitoringDay | None


_TOUCHED_DAYS = text("""
    with live as (
        select r.seq, r.request_id, (u.position - 1)::int as row_index, u.key,
               (u.event_time at time zone 'UTC')::date as day
        from prediction_requests r
        cross join lateral unnest(r.keys, r.event_times) with ordinality as u(key, event_time, position)
        where r.pipeline_id = :pipeline and not r.pinned and r.seq <= :predictions
    ),
    told as (
        select coalesce(l.key, r.keys[l.row_index + 1]) as key
        from labels l
        left join prediction_requests r on r.request_id = l.request_id
        where l.pipeline_id = :pipeline and l.seq > :old_labels and l.seq <= :labels
    )
    select distinct day from live
    where seq > :old_predictions or key in (select key from told where key is not null)
    order by day
""")

_PREDICTIONS = text("""
    select distinct on (day, key) day, key, score, version_id, event_time
    from (
        select r.requested_at, r.request_id, u.position, u.key, u.event_time, u.score, r.version_id,
               (u.event_time at time zone 'UTC')::date as day
        from prediction_requests r
        cross join lateral unnest(r.keys, r.event_times, r.scores) with ordinality as u(key, event_time, score, position)
        where r.pipeline_id = :pipeline and not r.pinned and r.seq <= :predictions
    ) as live
    where day = any(:days)
    order by day, key, requested_at, request_id, position
""")

# A label given for a prediction is a label of that prediction's example, whichever prediction of it is looked at.
_LABELS = text(f"""
    with asked as (select unnest(cast(:keys as text[])) as key),
    answered as (
        select r.request_id, (u.position - 1)::int as row_index, u.key
        from prediction_requests r
        cross join lateral unnest(r.keys) with ordinality as u(key, position)
        join asked on asked.key = u.key
        where r.pipeline_id = :pipeline
    )
    select distinct on (key) key, label
    from (
        select l.key, l.label, l.source_rank, l.label_time, l.content_digest
        from labels l join asked on asked.key = l.key
        where l.pipeline_id = :pipeline and l.seq <= :labels
        union all
        select a.key, l.label, l.source_rank, l.label_time, l.content_digest
        from answered a join labels l on l.request_id = a.request_id and l.row_index = a.row_index
        where l.pipeline_id = :pipeline and l.seq <= :labels
    ) as told
    order by key, {EFFECTIVE_ORDER}
""")  # noqa: S608 - a constant of the code


def settled_watermark(sessions: Sessions) -> Watermark:
    """A watermark below which nothing can appear any more."""
    with ingest_settled(sessions) as session:
        return Watermark(
            session.scalar(select(func.max(col(PredictionRequest.seq)))) or 0,
            session.scalar(select(func.max(col(Label.seq)))) or 0,
        )


def claim_watermark(session: Session, pipeline_id: uuid.UUID) -> MonitoringWatermark | None:
    """The pipeline's watermark row, locked; None while another worker holds it."""
    session.execute(insert(MonitoringWatermark).values(pipeline_id=pipeline_id).on_conflict_do_nothing())
    query = select(MonitoringWatermark).where(col(MonitoringWatermark.pipeline_id) == pipeline_id)
    return session.scalars(query.with_for_update(skip_locked=True)).one_or_none()


def touched_days(session: Session, pipeline_id: uuid.UUID, old: Watermark, new: Watermark) -> Sequence[date]:
    """The days of event time whose live predictions or labels grew between two watermarks, in order."""
    values = {
        "pipeline": pipeline_id,
        "old_predictions": old.predictions,
        "old_labels": old.labels,
        "predictions": new.predictions,
        "labels": new.labels,
    }
    return session.scalars(_TOUCHED_DAYS, values).all()


def predictions_of(
    session: Session, pipeline_id: uuid.UUID, days: Sequence[date], upto: Watermark
) -> tuple[Predictions, list[datetime]]:
    """The live predictions of some days, one a key (the earliest), with their effective labels; and their event times."""
    rows = session.execute(
        _PREDICTIONS, {"pipeline": pipeline_id, "days": list(days), "predictions": upto.predictions}
    ).all()
    keys = list({row.key for row in rows})
    label_rows = session.execute(_LABELS, {"pipeline": pipeline_id, "keys": keys, "labels": upto.labels})
    labels: dict[str, float] = {row.key: row.label for row in label_rows}
    ids = {row.version_id for row in rows}
    versions = {v.id: v for v in session.scalars(select(ModelVersion).where(col(ModelVersion.id).in_(ids)))}
    answered = [versions[row.version_id] for row in rows]
    predictions = Predictions(
        day=np.array([row.day for row in rows], dtype="datetime64[D]"),
        score=np.array([row.score for row in rows], dtype=np.float64),
        label=np.array([labels.get(row.key, np.nan) for row in rows], dtype=np.float64),
        version=np.array([version.number for version in answered], dtype=np.int64),
        train_label_mean=np.array([version.train_label_mean for version in answered], dtype=np.float64),
        age_s=np.array(
            [(row.event_time - version.as_of).total_seconds() for row, version in zip(rows, answered, strict=True)],
            dtype=np.float64,
        ),
    )
    return predictions, [row.event_time for row in rows]


def store_days(session: Session, pipeline_id: uuid.UUID, days: Iterable[DayQuality]) -> None:
    """Write or replace the rows of these days."""
    for day in days:
        values = {**asdict(day), "computed_at": func.now()}
        statement = insert(MonitoringDay).values(pipeline_id=pipeline_id, **values)
        session.execute(statement.on_conflict_do_update(index_elements=["pipeline_id", "day"], set_=values))


def pipelines_with_news(session: Session) -> dict[uuid.UUID, Watermark]:
    """Deployed pipelines whose log or labels grew since they were last read, and how far that was."""
    query = select(col(Deployment.pipeline_id), MonitoringWatermark).outerjoin(
        MonitoringWatermark, col(MonitoringWatermark.pipeline_id) == col(Deployment.pipeline_id)
    )
    read = {
        pipeline: Watermark(mark.prediction_seq, mark.label_seq) if mark else Watermark(0, 0)
        for pipeline, mark in session.execute(query)
    }
    return {pipeline: mark for pipeline, mark in read.items() if _has_news(session, pipeline, mark)}


def _has_news(session: Session, pipeline_id: uuid.UUID, read: Watermark) -> bool:
    predicted = select(col(PredictionRequest.seq)).where(
        col(PredictionRequest.pipeline_id) == pipeline_id, col(PredictionRequest.seq) > read.predictions
    )
    labelled = select(col(Label.seq)).where(col(Label.pipeline_id) == pipeline_id, col(Label.seq) > read.labels)
    return bool(session.scalar(select(predicted.exists() | labelled.exists())))


def days_of(
    session: Session, pipeline_id: uuid.UUID, first: date | None, last: date | None, limit: int
) -> Sequence[MonitoringDay]:
    """A pipeline's days from `first` to `last` inclusive, the newest `limit` of them, oldest first."""
    query = select(MonitoringDay).where(col(MonitoringDay.pipeline_id) == pipeline_id)
    if first is not None:
        query = query.where(col(MonitoringDay.day) >= first)
    if last is not None:
        query = query.where(col(MonitoringDay.day) <= last)
    return session.scalars(query.order_by(col(MonitoringDay.day).desc()).limit(limit)).all()[::-1]


def live_pipelines(session: Session, pipeline_id: uuid.UUID | None = None) -> list[Live]:
    """Every deployed pipeline (or the one named) with its newest monitored day."""
    newest = (
        select(col(MonitoringDay.pipeline_id), func.max(col(MonitoringDay.day)).label("day"))
        .group_by(col(MonitoringDay.pipeline_id))
        .subquery()
    )
    query = (
        select(
            col(Pipeline.name),
            col(ModelVersion.number),
            col(Deployment.generation),
            col(ModelVersion.as_of),
            MonitoringDay,
        )
        .select_from(Deployment)
        .join(Pipeline, col(Pipeline.id) == col(Deployment.pipeline_id))
        .join(ModelVersion, col(ModelVersion.id) == col(Deployment.live_version_id))
        .outerjoin(newest, newest.c.pipeline_id == col(Deployment.pipeline_id))
        .outerjoin(
            MonitoringDay,
            (col(MonitoringDay.pipeline_id) == newest.c.pipeline_id) & (col(MonitoringDay.day) == newest.c.day),
        )
    )
    if pipeline_id is not None:
        query = query.where(col(Deployment.pipeline_id) == pipeline_id)
    return [Live(*row) for row in session.execute(query)]
