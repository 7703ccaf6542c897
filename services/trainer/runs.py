"""Use cases of a training run outside its worker: queue one, cancel it."""

import uuid

from sqlmodel import Session

from services.trainer import repository
from shared.contracts.tasks import TaskName
from shared.errors import Conflict
from shared.ids import new_id
from shared.jobs import lease
from shared.jobs.outbox import enqueue
from shared.jobs.work import RUN
from shared.registry.states import DatasetState, RunState, check_move
from shared.registry.tables import Dataset, Run


def queue_run(session: Session, dataset: Dataset, *, cycle_id: uuid.UUID | None = None) -> Run:
    """Write the run and its nudge in the caller's transaction.

    Raises:
        Conflict: the dataset has nothing to train on.
    """
    if dataset.state != DatasetState.READY:
        raise Conflict(f"Dataset {dataset.number} is {dataset.state}; only a ready one can be trained on.")
    spec = repository.spec_of(session, dataset.pipeline_id, dataset.spec_version)
    run = Run(
        id=new_id(),
        pipeline_id=dataset.pipeline_id,
        dataset_id=dataset.id,
        cycle_id=cycle_id,
        spec_version=dataset.spec_version,
        seed=spec.training.seed,
        created_at=repository.database_now(session),
    )
    session.add(run)
    session.flush()
    lease.nudge(session, RUN, run.id)
    return run


def cancel_run(session: Session, run: Run) -> None:
    """Stop a run: at once while it waits, at its next heartbeat while it trains; nothing happens when it has ended."""
    if run.state == RunState.RUNNING:
        run.cancel_requested = True
    elif run.state == RunState.QUEUED:
        check_move(RunState.QUEUED, RunState.CANCELLED)
        run.state, run.reason = RunState.CANCELLED, "Cancelled on request before it began."
        run.lease_until = None  # it may have been given back, to wait a while
        run.finished_at = repository.database_now(session)
        if run.cycle_id is not None:
            enqueue(session, TaskName.ADVANCE_CYCLE, run.cycle_id)
