"""The task behind `validator.release`: take a promoted candidate into production through serving, never by force.

The verdict holds for one baseline. As long as that is what serves, the release is a compare-and-set against serving's
generation; once another model serves, the candidate is judged again, a bounded number of times.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlmodel import Session

from services.validator import repository
from services.validator.serving_client import NotLoadable, ServingClient
from services.validator.verdict import move_version
from shared.contracts.tasks import TaskName
from shared.errors import Conflict, Unavailable
from shared.ids import new_id
from shared.jobs import lease as leases
from shared.jobs.outbox import enqueue
from shared.jobs.work import VALIDATION
from shared.registry.session import Sessions
from shared.registry.states import Decision, ReleaseState, ValidationState, VersionState, check_move
from shared.registry.tables import Alert, Deployment, Validation

log = structlog.get_logger(__name__)

MOST_REJUDGED = 3
"""Judged again more often than this, a candidate is held: something else keeps releasing."""

REPLAY_GAP = timedelta(days=1)


class Step(StrEnum):
    """What to do about a pending release."""

    PROMOTE = "promote"  #: ask serving
    DONE = "done"  #: it serves already (an answer that was lost, or someone's own promotion)
    JUDGE_AGAIN = "judge-again"  #: another model serves than the one it was compared with
    HOLD = "hold"  #: as JUDGE_AGAIN, but no more attempts, or a person approved what is no longer true


@dataclass(frozen=True, slots=True)
class Production:
    """What serves, as far as a release is concerned."""

    live: uuid.UUID | None
    generation: int

    @classmethod
    def of(cls, deployment: Deployment | None) -> "Production":
        return cls(None, 0) if deployment is None else cls(deployment.live_version_id, deployment.generation)


def next_step(
    *, candidate: uuid.UUID, judged_against: uuid.UUID | None, production: Production, rejudged: int, approved: bool
) -> Step:
    """Decide, from rows alone.

    Args:
        candidate: the version to release.
        judged_against: the baseline of its verdict; None: there was none.
        production: what serves now.
        rejudged: how often it was judged again.
        approved: a person approved it after it was held.
    """
    if production.live == candidate:
        return Step.DONE
    if production.live == judged_against:
        return Step.PROMOTE
    return Step.HOLD if approved or rejudged >= MOST_REJUDGED else Step.JUDGE_AGAIN


def replayed_at(as_of: datetime, trained_at: datetime) -> datetime | None:
    """The simulated moment of a release, when history is replayed: the model was trained as of a time long before it was."""
    return as_of if trained_at - as_of > REPLAY_GAP else None


def release(sessions: Sessions, serving: ServingClient, validation_id: uuid.UUID, *, webhook: bool) -> None:
    """Take the next step of one release; nothing happens when none is pending.

    Serving away: the release stays pending, and the sweeper nudges again.
    """
    with sessions.begin() as session:
        row = session.get(Validation, validation_id)
        if row is None or row.release_state != ReleaseState.PENDING:
            return
        production = Production.of(repository.deployment_of(session, row.pipeline_id))
        pipeline, version = repository.release_target(session, row)
    step = _next(row, production)
    if step is not Step.PROMOTE:
        _settle(sessions, validation_id, step, production)
        return
    try:
        generation = serving.promote(
            pipeline,
            version.number,
            expected_generation=production.generation,
            validation_id=validation_id,
            reason=(row.sentence or "")[:1000],
            effective_at=replayed_at(version.as_of, version.created_at),
        )
    except Unavailable as error:
        log.warning("release waits for serving", pipeline=pipeline, version=version.number, reason=error.detail)
        _note(sessions, validation_id, error.detail)
        return
    except Conflict as error:
        _refused(sessions, validation_id, production, version.number, error, webhook=webhook)
        return
    log.info("released", pipeline=pipeline, version=version.number, generation=generation)
    _settle(sessions, validation_id, Step.DONE, Production(row.candidate_id, generation))


def hold_again(session: Session, row: Validation, reason: str) -> None:
    """Back to a person's desk: the row is held, its version too, and the cycle hears of it."""
    _end(session, row, Decision.HOLD, VersionState.HELD, reason)


def _end(session: Session, row: Validation, decision: Decision, state: VersionState, reason: str) -> None:
    """Nothing is released: the verdict is taken back, and the cycle hears of it. A version judged again since keeps its state."""
    row.decision, row.release_state, row.reason = decision, None, reason
    if not repository.judged_since(session, row):
        move_version(repository.locked_version(session, row.candidate_id), state)
    if row.cycle_id is not None:
        enqueue(session, TaskName.ADVANCE_CYCLE, row.cycle_id)


def _next(row: Validation, production: Production) -> Step:
    return next_step(
        candidate=row.candidate_id,
        judged_against=row.baseline_id,
        production=production,
        rejudged=row.rejudged,
        approved=row.decided_by is not None,
    )


def _settle(sessions: Sessions, validation_id: uuid.UUID, step: Step, production: Production) -> None:
    with sessions.begin() as session:
        row = repository.locked_validation(session, validation_id)
        if row is None or row.release_state != ReleaseState.PENDING:
            return  # another worker was faster
        if step is Step.DONE:
            row.release_state, row.released_generation, row.reason = ReleaseState.DONE, production.generation, None
            if row.cycle_id is not None:
                enqueue(session, TaskName.ADVANCE_CYCLE, row.cycle_id)
        elif step is Step.JUDGE_AGAIN:
            _queue_again(session, row)
        elif step is Step.HOLD:
            hold_again(
                session,
                row,
                "Another model went into production since the verdict, so that the verdict says nothing about it. "
                "Validate the version again.",
            )


def _queue_again(session: Session, row: Validation) -> None:
    check_move(ValidationState(row.state), ValidationState.QUEUED)
    row.state, row.decision, row.release_state = ValidationState.QUEUED, None, ReleaseState.CONFLICT
    row.rejudged, row.attempt, row.finished_at = row.rejudged + 1, 0, None
    row.reason = "Another model went into production meanwhile; judged again against that one."
    session.flush()
    leases.nudge(session, VALIDATION, row.id)


def _refused(
    sessions: Sessions, validation_id: uuid.UUID, asked: Production, number: int, refusal: Conflict, *, webhook: bool
) -> None:
    """Serving said no: because production changed (then the rows say what follows), or because it cannot take this version.

    One that cannot be loaded is rejected: there is nothing for a person to approve. Any other refusal holds it.
    """
    with sessions.begin() as session:
        row = repository.locked_validation(session, validation_id)
        if row is None or row.release_state != ReleaseState.PENDING:
            return
        production = Production.of(repository.deployment_of(session, row.pipeline_id))
        not_loadable = isinstance(refusal, NotLoadable)
        if production != asked and not not_loadable:
            enqueue(session, TaskName.RELEASE, row.id)  # the next look decides on what serves now
            return
        log.error("serving refuses the release", version=number, reason=refusal.detail)
        reason = f"Serving refused version {number}: {refusal.detail}"
        if not_loadable:
            reason += " Train again; or mend what it names, and validate the version again."
            _end(session, row, Decision.REJECT, VersionState.REJECTED, reason)
        else:
            hold_again(session, row, reason)
        alert = Alert(
            id=new_id(),
            pipeline_id=row.pipeline_id,
            kind="release-refused",
            severity="critical",
            message=reason,
            validation_id=row.id,
        )
        repository.add_alert(session, alert, deliver=webhook)


def _note(sessions: Sessions, validation_id: uuid.UUID, reason: str) -> None:
    with sessions.begin() as session:
        row = repository.locked_validation(session, validation_id)
        if row is not None and row.release_state == ReleaseState.PENDING:
            row.reason = reason
