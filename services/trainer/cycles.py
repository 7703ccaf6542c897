"""Use cases of a cycle: start one, take its next step, cancel it."""

import uuid
from datetime import datetime

import structlog
from sqlmodel import Session

from services.trainer import cycle_repository, repository
from services.trainer.cycle_steps import End, RequestDataset, RequestValidation, StartRun, Step, Wait, next_step
from services.trainer.metrics import CYCLES
from services.trainer.peers import Peers, Refused
from services.trainer.runs import cancel_run, queue_run
from shared.contracts.tasks import TaskName
from shared.errors import Conflict, Invalid, Unavailable
from shared.ids import new_id
from shared.instances import FIRST
from shared.jobs.outbox import enqueue
from shared.registry.session import Sessions
from shared.registry.states import CycleState, check_move
from shared.registry.tables import Cycle, Dataset, Pipeline

log = structlog.get_logger(__name__)

MOST_STEPS = 8
"""Steps taken at one look; a cycle has fewer."""


def start_cycle(
    session: Session,
    pipeline: Pipeline,
    *,
    as_of: datetime | None,
    trigger: str,
    requested_by: str,
    slot: datetime | None = None,
) -> Cycle:
    """Write the cycle and its first nudge in the caller's transaction.

    Args:
        as_of: what is known in this cycle; by default the database's now.

    Raises:
        Invalid: `as_of` lies in the future, or before 1900.
    """
    now = repository.database_now(session)
    if as_of is not None and not FIRST <= as_of <= now:
        ahead = as_of > now
        raise Invalid(
            f"as_of lies {'in the future' if ahead else 'before the year 1900'}; leave it out to use what is known now.",
            errors=[{"loc": ["body", "as_of"], "msg": f"must not be {'later than now' if ahead else 'before 1900'}"}],
        )
    cycle = Cycle(
        id=new_id(),
        pipeline_id=pipeline.id,
        trigger=trigger,
        as_of=as_of or now,
        slot=slot,
        spec_version=pipeline.spec_version,
        requested_by=requested_by,
        nudged_at=now,
        created_at=now,
    )
    session.add(cycle)
    session.flush()
    enqueue(session, TaskName.ADVANCE_CYCLE, cycle.id)
    return cycle


def advance(sessions: Sessions, peers: Peers, cycle_id: uuid.UUID) -> None:
    """Take every step that can be taken now. Each is one transaction on the locked row; two workers never take the same.

    A service that is away leaves the cycle where it is; the sweeper nudges again.
    """
    for _ in range(MOST_STEPS):
        with sessions.begin() as session:
            cycle = cycle_repository.lock_cycle(session, cycle_id)
            if cycle is None:
                return
            step = next_step(cycle_repository.facts_of(session, cycle))
            cycle.advanced_at = repository.database_now(session)
            if isinstance(step, Wait):
                return
            try:
                _take(session, peers, cycle, step)
            except Refused as error:
                _end(session, cycle, End(CycleState.FAILED, error.detail))
            except Unavailable as error:
                log.warning("cycle waits", state=cycle.state, reason=error.detail)
                return
            log.info("cycle advanced", state=cycle.state, pipeline_id=str(cycle.pipeline_id))


def cancel(session: Session, cycle: Cycle) -> None:
    """Stop a cycle; its running training is told to stop, a dataset under way comes to nothing.

    Raises:
        Conflict: it has ended already, or its candidate is with the validator, which releases by itself.
    """
    state = CycleState(cycle.state)
    if state not in cycle_repository.OPEN_CYCLES:
        raise Conflict(f"The cycle is {state} already; only one at work can be cancelled.")
    if state is CycleState.VALIDATING:
        raise Conflict("The candidate is being judged and may be released any moment; roll the release back instead.")
    if cycle.run_id is not None:
        cancel_run(session, repository.run_of(session, cycle.pipeline_id, cycle.run_id, lock=True))
    _end(session, cycle, End(CycleState.CANCELLED, "Cancelled on request."))


def _take(session: Session, peers: Peers, cycle: Cycle, step: Step) -> None:
    pipeline = session.get_one(Pipeline, cycle.pipeline_id)
    match step:
        case RequestDataset():
            cycle.dataset_id = peers.request_dataset(pipeline.name, cycle.id, cycle.as_of)
            # Another spec may have been applied since the cycle began: it goes on with the one that its dataset is built by.
            cycle.spec_version = session.get_one(Dataset, cycle.dataset_id).spec_version
            _move(cycle, CycleState.DATASET)
        case StartRun():
            assert cycle.dataset_id is not None
            run = queue_run(session, session.get_one(Dataset, cycle.dataset_id), cycle_id=cycle.id)
            cycle.run_id = run.id
            _move(cycle, CycleState.TRAINING)
        case RequestValidation():
            assert cycle.run_id is not None
            version = repository.version_of_run(session, cycle.run_id)
            assert version is not None, "a succeeded run has its version, by the transaction that ended it"
            cycle.version_id = version.id
            cycle.validation_id = peers.request_validation(pipeline.name, cycle.id, version.number)
            _move(cycle, CycleState.VALIDATING)
        case End():
            _end(session, cycle, step)


def _move(cycle: Cycle, state: CycleState) -> None:
    check_move(CycleState(cycle.state), state)
    cycle.state = state


def _end(session: Session, cycle: Cycle, end: End) -> None:
    _move(cycle, end.state)
    cycle.reason = end.reason
    cycle.finished_at = repository.database_now(session)
    CYCLES.labels(end.state).inc()
