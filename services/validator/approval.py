"""A person's word on a held candidate: approved, it is released like any other; rejected, it is not."""

import uuid

from sqlalchemy import func, select
from sqlmodel import Session

from services.validator import repository
from services.validator.release import Production, Step, next_step
from services.validator.verdict import move_version
from shared.contracts.tasks import TaskName
from shared.errors import Conflict
from shared.jobs.outbox import enqueue
from shared.registry.states import Decision, ReleaseState, VersionState
from shared.registry.tables import Validation


def approve(session: Session, pipeline: str, validation_id: uuid.UUID, *, by: str, reason: str) -> None:
    """Release a held candidate, in the caller's transaction.

    Raises:
        NotFound: the pipeline has no such validation.
        Conflict: it is not held, or another model serves than the one it was compared with.
    """
    row = _held(session, pipeline, validation_id)
    production = Production.of(repository.deployment_of(session, row.pipeline_id))
    step = next_step(
        candidate=row.candidate_id,
        judged_against=row.baseline_id,
        production=production,
        rejudged=row.rejudged,
        approved=True,
    )
    if step is Step.HOLD:
        raise Conflict(
            "Another model went into production since this verdict, so that it says nothing about that one. "
            "Ask for a new validation of the version."
        )
    _decide(session, row, Decision.PROMOTE, by, reason)
    row.release_state = ReleaseState.PENDING
    move_version(repository.locked_version(session, row.candidate_id), VersionState.VALIDATED)
    enqueue(session, TaskName.RELEASE, row.id)


def reject(session: Session, pipeline: str, validation_id: uuid.UUID, *, by: str, reason: str) -> None:
    """Reject a held candidate, in the caller's transaction.

    Raises:
        NotFound: the pipeline has no such validation.
        Conflict: it is not held.
    """
    row = _held(session, pipeline, validation_id)
    _decide(session, row, Decision.REJECT, by, reason)
    move_version(repository.locked_version(session, row.candidate_id), VersionState.REJECTED)
    if row.cycle_id is not None:
        enqueue(session, TaskName.ADVANCE_CYCLE, row.cycle_id)


def _held(session: Session, pipeline: str, validation_id: uuid.UUID) -> Validation:
    found = repository.validation_of(session, pipeline, validation_id)
    row = repository.locked_validation(session, found.row.id)
    assert row is not None
    if row.decision != Decision.HOLD:
        raise Conflict(f"Only a held candidate can be approved or rejected; this one is {_standing(row)}.")
    if repository.judged_since(session, row):
        raise Conflict("The version was judged again since; approve or reject the newest validation of it.")
    return row


def _decide(session: Session, row: Validation, decision: Decision, by: str, reason: str) -> None:
    row.decision, row.decided_by, row.reason = decision, by, reason
    row.decided_at = session.scalar(select(func.now()))


def _standing(row: Validation) -> str:
    if row.decision is None:
        return f"{row.state} without a decision"
    return f"decided already: {row.decision}"
