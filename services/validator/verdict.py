"""What a verdict does to the rows, in the transaction that finishes the validation: version state, release, alert."""

from typing import Any

from sqlmodel import Session

from services.validator import repository
from services.validator.gate import Outcome, decide
from services.validator.repository import Case
from shared.contracts.tasks import TaskName
from shared.ids import new_id
from shared.jobs.outbox import enqueue
from shared.registry.states import Decision, ReleaseState, ValidationState, VersionState, check_move
from shared.registry.tables import Alert, ModelVersion, Validation

STATE_OF = {
    Decision.PROMOTE: VersionState.VALIDATED,
    Decision.HOLD: VersionState.HELD,
    Decision.REJECT: VersionState.REJECTED,
}


def record(
    session: Session, row: Validation, case: Case, outcome: Outcome, report: dict[str, Any], *, webhook: bool
) -> Decision | None:
    """Write the verdict and what follows from it.

    A comparison with a baseline that the caller named informs only: no decision, no release, no alert.

    Returns:
        The decision, or None for a comparison that informs only.
    """
    row.sentence, row.report = outcome.sentence, report
    row.baseline_id = case.baseline.id if case.baseline else None
    row.baseline_generation = case.generation
    row.reason = outcome.sentence if outcome.verdict is ValidationState.REJECTED else None
    if case.informs_only:
        return None
    decision = decide(outcome, case.spec.gate)
    row.decision = decision
    row.release_state = ReleaseState.PENDING if decision is Decision.PROMOTE else None
    move_version(repository.locked_version(session, row.candidate_id), STATE_OF[decision])
    if decision is Decision.PROMOTE:
        enqueue(session, TaskName.RELEASE, row.id)
    if decision is Decision.REJECT:
        repository.add_alert(session, _alert(row, case, outcome), deliver=webhook)
    return decision


def move_version(version: ModelVersion, target: VersionState) -> None:
    """Bring a version to what the newest verdict says; a rejected one that is judged anew becomes a candidate first.

    Raises:
        IllegalMove: the version is retired.
    """
    now = VersionState(version.state)
    if now is target:
        return
    if now is VersionState.REJECTED:
        check_move(now, VersionState.CANDIDATE)
        now = VersionState.CANDIDATE
    check_move(now, target)
    version.state = target


def _alert(row: Validation, case: Case, outcome: Outcome) -> Alert:
    worse = outcome.reason == "worse"
    return Alert(
        id=new_id(),
        pipeline_id=row.pipeline_id,
        kind="candidate-worse" if worse else "candidate-insane",
        severity="warning" if case.baseline else "critical",
        message=f"Version {case.candidate.number} is not released. {outcome.sentence}",
        detail={
            "candidate": case.candidate.number,
            "baseline": case.baseline.number if case.baseline else None,
            "reason": outcome.reason,
            "comparison": row.report.get("comparison"),
        },
        validation_id=row.id,
    )
