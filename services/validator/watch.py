"""The task behind `validator.monitor`: bring the days of a pipeline up to date that new predictions or labels touched."""

import uuid
from datetime import datetime

import numpy as np
import structlog
from sqlalchemy import func, select

from services.validator import monitoring_repository, repository
from services.validator.monitoring import Floats, Predictions, quality_by_day
from services.validator.monitoring_repository import Watermark
from shared.registry.session import Sessions
from shared.registry.tables import Pipeline
from shared.spec import PipelineSpec

log = structlog.get_logger(__name__)

DAYS_AT_ONCE = 14
"""Bounds memory: a day's predictions are held in whole."""


def monitor(sessions: Sessions, pipeline_id: uuid.UUID) -> int:
    """Recompute what changed since the last look, in one transaction with the watermark that says so.

    Returns:
        How many days were recomputed; 0 also when another worker is at it.
    """
    upto = monitoring_repository.settled_watermark(sessions)
    with sessions.begin() as session:
        row = monitoring_repository.claim_watermark(session, pipeline_id)
        if row is None or (row.prediction_seq >= upto.predictions and row.label_seq >= upto.labels):
            return 0
        spec = repository.spec_of(session, pipeline_id, session.get_one(Pipeline, pipeline_id).spec_version)
        now: datetime = session.execute(select(func.now())).scalar_one()
        days = monitoring_repository.touched_days(
            session, pipeline_id, Watermark(row.prediction_seq, row.label_seq), upto
        )
        for start in range(0, len(days), DAYS_AT_ONCE):
            part = days[start : start + DAYS_AT_ONCE]
            predictions, times = monitoring_repository.predictions_of(session, pipeline_id, part, upto)
            predictions = with_silence(predictions, times, spec, as_of=now)
            monitoring_repository.store_days(session, pipeline_id, quality_by_day(predictions, spec.task))
        row.prediction_seq = max(row.prediction_seq, upto.predictions)
        row.label_seq = max(row.label_seq, upto.labels)
    if days:
        log.info("monitoring is up to date", pipeline=spec.name, days=len(days), last=days[-1].isoformat())
    return len(days)


def with_silence(
    predictions: Predictions, times: list[datetime], spec: PipelineSpec, *, as_of: datetime
) -> Predictions:
    """Under `label.if_missing: negative`, a prediction that stayed without a label until it was mature is a 0."""
    if spec.label.if_missing != "negative":
        return predictions
    mature = np.array([time <= as_of - spec.label.mature_after for time in times], dtype=bool)
    label: Floats = np.where(np.isnan(predictions.label) & mature, 0.0, predictions.label)
    return Predictions(
        day=predictions.day,
        score=predictions.score,
        label=label,
        version=predictions.version,
        train_label_mean=predictions.train_label_mean,
        age_s=predictions.age_s,
    )
