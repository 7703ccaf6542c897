"""SQL of monitoring: which days changed, what was predicted on them, what became known, and the rows kept of it.

The log has no index by event time, so finding a day's predictions reads the pipeline's whole log once, but only its narrow columns
(never the instances). Which days changed is found by index, unless labels came by key alone.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

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

QUERY_TIMEOUT_MS = 600_000
"""A first look at a long history takes a while; what is new later is seconds."""


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


_DAYS_OF_PREDICTIONS = text("""
    select distinct (u.event_time at time zone 'UTC')::date as day
    from prediction_requests r cross join lateral unnest(r.event_times) as u(event_time)
    where r.pipeline_id = :pipeline and not r.pinned and r.seq > :old_predictions and r.seq <= :predictions
    union
    select distinct (r.event_times[l.row_index + 1] at time zone 'UTC')::date as day
    from labels l join prediction_requests r on r.request_id = l.request_id
    where l.pipeline_id = :pipeline and l.seq > :old_labels and l.seq <= :labels
      and r.pipeline_id = :pipeline and r.seq <= :predictions and l.row_index < cardinality(r.event_times)
""")

_DAYS_OF_KEYS = text("""
    select distinct (u.event_time at time zone 'UTC')::date as day
    from prediction_requests r cross join lateral unnest(r.keys, r.event_times) as u(key, event_time)
    where r.pipeline_id = :pipeline and not r.pinned and r.seq <= :predictions and u.key in (
        select key from labels where pipeline_id = :pipeline and seq > :old_labels and seq <= :labels and key is not null
    )
""")

# A label given for a prediction, pinned or not, is a label of that prediction's example.
_PREDICTIONS = text(f"""
    with shown as materialized (
        select r.requested_at, r.request_id, (u.position - 1)::int as row_index, r.version_id, r.pinned,
               u.key, u.event_time, u.score, (u.event_time at time zone 'UTC')::date as day
        from prediction_requests r
        cross join lateral unnest(r.keys, r.event_times, r.scores) with ordinality as u(key, event_time, score, position)
        where r.pipeline_id = :pipeline and r.seq <= :predictions
          and (u.event_time at time zone 'UTC')::date = any(:days)
    ),
    live as (
        select distinct on (day, key) day, key, score, version_id, event_time
        from shown where not pinned
        order by day, key, requested_at, request_id, row_index
    ),
    told as (
        select s.day, s.key, l.label, l.source_rank, l.label_time, l.content_digest
        from live s join labels l on l.pipeline_id = :pipeline and l.key = s.key
        where l.seq <= :labels
        union all
        select s.day, s.key, l.label, l.source_rank, l.label_time, l.content_digest
        from shown s join labels l on l.request_id = s.request_id and l.row_index = s.row_index
        where l.pipeline_id = :pipeline and l.seq <= :labels
    ),
    effective as (
        select distinct on (day, key) day, key, label from told order by day, key, {EFFECTIVE_ORDER}
    )
    select live.day, live.score, live.version_id, live.event_time, effective.label
    from live left join effective using (day, key)
    order by live.day
""")  # noqa: S608 - a constant of the code


_MATURED = text("""
    select day from monitoring_days
    where pipeline_id = :pipeline
      and ((day + 1)::timestamp at time zone 'UTC') + cast(:mature_after as interval) > computed_at
      and ((day + 1)::timestamp at time zone 'UTC') + cast(:mature_after as interval) <= now()
""")


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


def touched_days(session: Session, pipeline_id: uuid.UUID, old: Watermark, new: Watermark) -> list[date]:
    """The days of event time whose live predictions or labels grew between two watermarks, in order."""
    values = {
        "pipeline": pipeline_id,
        "old_predictions": old.predictions,
        "old_labels": old.labels,
        "predictions": new.predictions,
        "labels": new.labels,
    }
    by_key = select(col(Label.seq)).where(
        col(Label.pipeline_id) == pipeline_id,
        col(Label.seq) > old.labels,
        col(Label.seq) <= new.labels,
        col(Label.key).is_not(None),
    )
    days = set(session.scalars(_DAYS_OF_PREDICTIONS, values))
    if session.scalar(select(by_key.exists())):
        days |= set(session.scalars(_DAYS_OF_KEYS, values))
    return sorted(days)


def matured_days(session: Session, pipeline_id: uuid.UUID, mature_after: timedelta) -> Sequence[date]:
    """The days known all of whose predictions became mature since they were last computed."""
    return session.scalars(_MATURED, {"pipeline": pipeline_id, "mature_after": mature_after}).all()


def predictions_by_day(
    session: Session, pipeline_id: uuid.UUID, days: Sequence[date], upto: Watermark
) -> Iterator[Predictions]:
    """The live predictions of each of these days, one a key (the earliest), with their effective labels; a day at a time."""
    if not days:
        return
    session.execute(text(f"set local statement_timeout = {QUERY_TIMEOUT_MS}"))
    versions = {
        v.id: v for v in session.scalars(select(ModelVersion).where(col(ModelVersion.pipeline_id) == pipeline_id))
    }
    rows = session.execute(
        _PREDICTIONS,
        {"pipeline": pipeline_id, "days": list(days), "predictions": upto.predictions, "labels": upto.labels},
        execution_options={"stream_results": True, "yield_per": 5000},
    )
    for _, group in groupby(rows, key=lambda row: row.day):
        yield _columns(list(group), versions)


def _columns(rows: Sequence[Any], versions: Mapping[uuid.UUID, ModelVersion]) -> Predictions:
    answered = [versions[row.version_id] for row in rows]
    event_s = np.array([row.event_time.timestamp() for row in rows], dtype=np.float64)
    return Predictions(
        day=np.array([row.day for row in rows], dtype="datetime64[D]"),
        event_s=event_s,
        score=np.array([row.score for row in rows], dtype=np.float64),
        label=np.array([np.nan if row.label is None else row.label for row in rows], dtype=np.float64),
        version=np.array([version.number for version in answered], dtype=np.int64),
        train_label_mean=np.array([version.train_label_mean for version in answered], dtype=np.float64),
        age_s=event_s - np.array([version.as_of.timestamp() for version in answered], dtype=np.float64),
    )


def store_days(session: Session, pipeline_id: uuid.UUID, days: Iterable[DayQuality]) -> None:
    """Write or replace the rows of these days."""
    for day in days:
        values = {**asdict(day), "computed_at": func.now()}
        statement = insert(MonitoringDay).values(pipeline_id=pipeline_id, **values)
        session.execute(statement.on_conflict_do_update(index_elements=["pipeline_id", "day"], set_=values))


def pipelines_with_news(session: Session, pipeline_id: uuid.UUID | None = None) -> dict[uuid.UUID, Watermark]:
    """Deployed pipelines (or the one named) whose log or labels grew since they were last read, and how far that was."""
    query = select(col(Deployment.pipeline_id), MonitoringWatermark).outerjoin(
        MonitoringWatermark, col(MonitoringWatermark.pipeline_id) == col(Deployment.pipeline_id)
    )
    if pipeline_id is not None:
        query = query.where(col(Deployment.pipeline_id) == pipeline_id)
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
