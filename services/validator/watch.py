"""The task behind `validator.monitor`: bring the days of a pipeline up to date that new predictions or labels touched."""

import uuid
from dataclasses import replace
from datetime import datetime

import numpy as np
import structlog
from sqlalchemy import func, select

from services.validator import monitoring_repository, repository
from services.validator.monitoring import Predictions, quality_by_day
from services.validator.monitoring_repository import Watermark
from shared.registry.session import Sessions
from shared.registry.tables import Pipeline
from shared.spec import PipelineSpec

log = structlog.get_logger(__name__)


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
        if spec.label.if_missing == "negative":
            # Silence has become an answer there, without anything new.
            matured = monitoring_repository.matured_days(session, pipeline_id, spec.label.mature_after)
            days = sorted({*days, *matured})
        for predictions in monitoring_repository.predictions_by_day(session, pipeline_id, days, upto):
            known = with_silence(predictions, spec, as_of=now)
            monitoring_repository.store_days(session, pipeline_id, quality_by_day(known, spec.task))
        row.prediction_seq = max(row.prediction_seq, upto.predictions)
        row.label_seq = max(row.label_seq, upto.labels)
    if days:
        log.info("monitoring is up to date", pipeline=spec.name, days=len(days), last=days[-1].isoformat())
    return len(days)


def with_silence(predictions: Predictions, spec: PipelineSpec, *, as_of: datetime) -> Predictions:
    """Under `label.if_missing: negative`, a prediction that stayed without a label until it was mature is a 0."""
    if spec.label.if_missing != "negative":
        return predictions
    mature = predictions.event_s <= (as_of - spec.label.mature_after).timestamp()
    return replace(predictions, label=np.where(np.isnan(predictions.label) & mature, 0.0, predictions.label))
