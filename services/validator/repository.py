"""All SQL of the validator but that of monitoring (`monitoring_repository.py`)."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from shared.contracts.tasks import TaskName
from shared.errors import Invalid, NotFound
from shared.jobs.outbox import enqueue
from shared.keys import no_such_pipeline
from shared.registry.tables import (
    Alert,
    Cycle,
    Dataset,
    Deployment,
    ModelVersion,
    Pipeline,
    SpecVersion,
    Validation,
)
from shared.registry.tables.validation import newest_decision_first
from shared.spec import PipelineSpec, parse
from shared.web.pagination import PageRequest, newest_first

ALERT_ATTEMPTS = 6
ALERT_FIRST_RETRY = timedelta(seconds=10)
"""After n failed attempts the next is due (2^n - 1) times this after the alert: 10 s, 30 s, 70 s, 150 s, 310 s."""
ALERT_KEPT = timedelta(days=1)
"""An alert older than this is not delivered any more: a webhook configured today does not replay last year."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that a validation needs to know, as of one moment."""

    pipeline: Pipeline
    spec: PipelineSpec
    candidate: ModelVersion
    dataset: Dataset
    baseline: ModelVersion | None
    generation: int | None
    """Serving's generation when the baseline was read; None when nothing is deployed."""
    informs_only: bool
    """The caller named the baseline: no release, no change of the version's state."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A validation with the numbers of the versions it is about."""

    row: Validation
    pipeline: str
    candidate: int
    baseline: int | None
    requested_baseline: int | None


def pipeline_by_name(session: Session, name: str) -> Pipeline:
    """The pipeline.

    Raises:
        NotFound: there is none of that name.
    """
    found = session.scalars(select(Pipeline).where(col(Pipeline.name) == name)).one_or_none()
    if found is None:
        raise no_such_pipeline()
    return found


def spec_of(session: Session, pipeline_id: uuid.UUID, number: int) -> PipelineSpec:
    """One version of a pipeline's spec."""
    return parse(session.get_one(SpecVersion, (pipeline_id, number)).spec)


def version_by_number(session: Session, pipeline_id: uuid.UUID, number: int, *, field: str) -> ModelVersion:
    """A version that a request body names.

    Raises:
        Invalid: there is none of that number; `field` says where it stands in the body.
    """
    found = session.scalars(
        select(ModelVersion).where(col(ModelVersion.pipeline_id) == pipeline_id, col(ModelVersion.number) == number)
    ).one_or_none()
    if found is None:
        raise Invalid(
            f"The pipeline has no model version {number}.",
            errors=[{"loc": ["body", field], "msg": "no such model version in this pipeline"}],
        )
    return found


def deployment_of(session: Session, pipeline_id: uuid.UUID) -> Deployment | None:
    """What serves now; None when nothing was ever released. Always read anew."""
    return session.get(Deployment, pipeline_id, populate_existing=True)


def cycle_exists(session: Session, pipeline_id: uuid.UUID, cycle_id: uuid.UUID) -> bool:
    """Whether the cycle is one of this pipeline's."""
    return (
        session.scalar(select(col(Cycle.id)).where(col(Cycle.id) == cycle_id, col(Cycle.pipeline_id) == pipeline_id))
        is not None
    )


def load_case(session: Session, validation_id: uuid.UUID) -> Case:
    """Read what a validation compares: the named baseline, else what serves now."""
    row = session.get_one(Validation, validation_id)
    candidate = session.get_one(ModelVersion, row.candidate_id)
    deployment = deployment_of(session, row.pipeline_id)
    baseline_id = row.requested_baseline_id or (deployment.live_version_id if deployment else None)
    return Case(
        pipeline=session.get_one(Pipeline, row.pipeline_id),
        spec=spec_of(session, row.pipeline_id, candidate.spec_version),
        candidate=candidate,
        dataset=session.get_one(Dataset, candidate.dataset_id),
        baseline=session.get_one(ModelVersion, baseline_id) if baseline_id else None,
        generation=deployment.generation if deployment else None,
        informs_only=row.requested_baseline_id is not None,
    )


def locked_validation(session: Session, validation_id: uuid.UUID) -> Validation | None:
    """The row, locked until the transaction ends."""
    return session.get(Validation, validation_id, with_for_update=True, populate_existing=True)


def locked_version(session: Session, version_id: uuid.UUID) -> ModelVersion:
    """The version, locked until the transaction ends."""
    return session.get_one(ModelVersion, version_id, with_for_update=True, populate_existing=True)


def release_target(session: Session, row: Validation) -> tuple[str, ModelVersion]:
    """The name of the pipeline, and the version that a validation would release."""
    return session.get_one(Pipeline, row.pipeline_id).name, session.get_one(ModelVersion, row.candidate_id)


def validation_of(session: Session, pipeline: str, validation_id: uuid.UUID) -> Numbered:
    """One validation of a pipeline.

    Raises:
        NotFound: the pipeline has none with that id.
    """
    found = session.execute(_numbered(pipeline).where(col(Validation.id) == validation_id)).one_or_none()
    if found is None:
        raise NotFound("The pipeline has no validation with that id.")
    return Numbered(*found)


def validations_page(session: Session, pipeline: str, page: PageRequest[uuid.UUID]) -> Sequence[Numbered]:
    """A pipeline's validations, newest first, one more than asked for."""
    query = newest_first(_numbered(pipeline), Validation.id, page)
    return [Numbered(*row) for row in session.execute(query)]


def judged_since(session: Session, row: Validation) -> bool:
    """Whether the newest decision on the version is another than this validation's."""
    decided = select(col(Validation.id)).where(
        col(Validation.candidate_id) == row.candidate_id, col(Validation.decision).is_not(None)
    )
    return session.scalar(decided.order_by(*newest_decision_first()).limit(1)) != row.id


def add_alert(session: Session, alert: Alert, *, deliver: bool) -> None:
    """Write an alert and ask for its delivery, in the transaction that changes the row it is about, and so once for each change."""
    session.add(alert)
    if deliver:
        enqueue(session, TaskName.DELIVER_ALERT, alert.id)


def alerts_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[uuid.UUID]) -> Sequence[Alert]:
    """A pipeline's alerts, newest first, one more than asked for."""
    query = newest_first(select(Alert).where(col(Alert.pipeline_id) == pipeline_id), Alert.id, page)
    return session.scalars(query).all()


def acknowledged(session: Session, pipeline_id: uuid.UUID, alert_id: uuid.UUID, *, by: str) -> Alert:
    """The alert, marked as seen by whoever came first.

    Raises:
        NotFound: the pipeline has none with that id.
    """
    found = session.get(Alert, alert_id, with_for_update=True)
    if found is None or found.pipeline_id != pipeline_id:
        raise NotFound("The pipeline has no alert with that id.")
    if found.acknowledged_at is None:
        found.acknowledged_at, found.acknowledged_by = session.scalar(select(func.now())), by
        session.flush()
    return found


def claim_delivery(session: Session, alert_id: uuid.UUID) -> tuple[Alert, str] | None:
    """Count one more attempt to deliver, if one is due, and give the alert with its pipeline's name; else None.

    The attempt is committed before it is made: two workers never deliver at once, and a crash counts as a failure.
    """
    statement = update(Alert).where(col(Alert.id) == alert_id, *_delivery_due())
    statement = statement.values(webhook_attempts=Alert.webhook_attempts + 1)
    if session.execute(statement.returning(col(Alert.id))).one_or_none() is None:
        return None
    alert = session.get_one(Alert, alert_id, populate_existing=True)
    return alert, session.get_one(Pipeline, alert.pipeline_id).name


def mark_delivered(session: Session, alert_id: uuid.UUID) -> None:
    """The receiver took the alert."""
    session.execute(update(Alert).where(col(Alert.id) == alert_id).values(delivered_at=func.now()))


def due_alerts(session: Session) -> dict[uuid.UUID, int]:
    """Alerts whose next attempt is due, with the attempts made; a new one only when its own nudge seems lost."""
    waited = or_(col(Alert.webhook_attempts) > 0, col(Alert.created_at) < func.now() - ALERT_FIRST_RETRY)
    query = select(col(Alert.id), col(Alert.webhook_attempts)).where(waited, *_delivery_due()).limit(100)
    return {row.id: row.webhook_attempts for row in session.execute(query)}


def _delivery_due() -> list[Any]:
    wait = ALERT_FIRST_RETRY * (func.power(2, Alert.webhook_attempts) - 1)
    return [
        col(Alert.delivered_at).is_(None),
        col(Alert.webhook_attempts) < ALERT_ATTEMPTS,
        col(Alert.created_at) > func.now() - ALERT_KEPT,
        col(Alert.created_at) + wait <= func.now(),
    ]


def _numbered(pipeline: str) -> Any:
    candidate, baseline, requested = aliased(ModelVersion), aliased(ModelVersion), aliased(ModelVersion)
    return (
        select(Validation, col(Pipeline.name), col(candidate.number), col(baseline.number), col(requested.number))
        .join(Pipeline, col(Pipeline.id) == col(Validation.pipeline_id))
        .join(candidate, col(candidate.id) == col(Validation.candidate_id))
        .outerjoin(baseline, col(baseline.id) == col(Validation.baseline_id))
        .outerjoin(requested, col(requested.id) == col(Validation.requested_baseline_id))
        .where(col(Pipeline.name) == pipeline)
    )
