"""Every SQL statement of the trainer."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from services.trainer.cycle_steps import Facts
from shared.contracts.tasks import TaskName
from shared.errors import NotFound
from shared.jobs.outbox import enqueue
from shared.registry.states import (
    CycleState,
    DatasetState,
    Decision,
    ReleaseState,
    RunState,
    ValidationState,
)
from shared.registry.tables import (
    Cycle,
    Dataset,
    Deployment,
    ModelVersion,
    Pipeline,
    Run,
    RunProgress,
    Schedule,
    ScheduleSlot,
    SpecVersion,
    Validation,
)
from shared.spec import PipelineSpec
from shared.web.pagination import PageRequest, newest_first

OPEN_CYCLES = (CycleState.QUEUED, CycleState.DATASET, CycleState.TRAINING, CycleState.VALIDATING)


def database_now(session: Session) -> datetime:
    """The start of the transaction by the database's clock."""
    now = session.scalar(select(func.now()))
    assert isinstance(now, datetime)
    return now


def pipeline_named(session: Session, name: str) -> Pipeline:
    """The pipeline.

    Raises:
        NotFound: there is none of that name.
    """
    pipeline = session.scalars(select(Pipeline).where(col(Pipeline.name) == name)).one_or_none()
    if pipeline is None:
        raise NotFound(f"There is no pipeline {name}; apply its file first.")
    return pipeline


def spec_of(session: Session, pipeline_id: uuid.UUID, number: int) -> PipelineSpec:
    """One spec version, as validated model."""
    row = session.get_one(SpecVersion, (pipeline_id, number))
    return PipelineSpec.model_validate(row.spec)


def spec_row(session: Session, pipeline: Pipeline) -> SpecVersion:
    """The pipeline's current spec version."""
    return session.get_one(SpecVersion, (pipeline.id, pipeline.spec_version))


def lock_cycle(session: Session, cycle_id: uuid.UUID) -> Cycle | None:
    """The cycle, locked; None when it does not exist. Waits for another worker that looks at it: its look may be older."""
    return session.scalars(select(Cycle).where(col(Cycle.id) == cycle_id).with_for_update()).one_or_none()


def cycle_of(session: Session, pipeline_id: uuid.UUID, cycle_id: uuid.UUID, *, lock: bool = False) -> Cycle:
    """One cycle of a pipeline.

    Raises:
        NotFound: it has no such cycle.
    """
    query = select(Cycle).where(col(Cycle.id) == cycle_id, col(Cycle.pipeline_id) == pipeline_id)
    cycle = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if cycle is None:
        raise NotFound(f"This pipeline has no cycle {cycle_id}.")
    return cycle


def facts_of(session: Session, cycle: Cycle) -> Facts:
    """What the rows say about a cycle now."""
    dataset = session.get(Dataset, cycle.dataset_id) if cycle.dataset_id else None
    run = session.get(Run, cycle.run_id) if cycle.run_id else None
    judged = session.get(Validation, cycle.validation_id) if cycle.validation_id else None
    return Facts(
        state=CycleState(cycle.state),
        dataset=DatasetState(dataset.state) if dataset else None,
        dataset_reason=dataset.reason if dataset else None,
        run=RunState(run.state) if run else None,
        run_reason=run.reason if run else None,
        validation=ValidationState(judged.state) if judged else None,
        decision=Decision(judged.decision) if judged and judged.decision else None,
        release=ReleaseState(judged.release_state) if judged and judged.release_state else None,
        sentence=judged.sentence if judged else None,
        validation_reason=judged.reason if judged else None,
    )


def dataset_numbered(session: Session, pipeline_id: uuid.UUID, number: int) -> Dataset:
    """One dataset of a pipeline.

    Raises:
        NotFound: it has no dataset of that number.
    """
    row = session.scalars(
        select(Dataset).where(col(Dataset.pipeline_id) == pipeline_id, col(Dataset.number) == number)
    ).one_or_none()
    if row is None:
        raise NotFound(f"This pipeline has no dataset {number}.")
    return row


def run_of(session: Session, pipeline_id: uuid.UUID, run_id: uuid.UUID, *, lock: bool = False) -> Run:
    """One run of a pipeline.

    Raises:
        NotFound: it has no such run.
    """
    query = select(Run).where(col(Run.id) == run_id, col(Run.pipeline_id) == pipeline_id)
    run = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if run is None:
        raise NotFound(f"This pipeline has no run {run_id}.")
    return run


def version_of_run(session: Session, run_id: uuid.UUID) -> ModelVersion | None:
    """The version a run made, if it succeeded."""
    return session.scalars(select(ModelVersion).where(col(ModelVersion.run_id) == run_id)).one_or_none()


def numbers_of(session: Session, rows: Sequence[Run | Cycle]) -> dict[uuid.UUID, tuple[int | None, int | None]]:
    """For each run or cycle, by its id: the numbers of its dataset and of its version."""
    datasets = {row.dataset_id for row in rows if row.dataset_id}
    dataset_numbers: dict[uuid.UUID, int] = {
        row.id: row.number
        for row in session.execute(select(col(Dataset.id), col(Dataset.number)).where(col(Dataset.id).in_(datasets)))
    }
    runs = {row.id if isinstance(row, Run) else row.run_id for row in rows}
    version_numbers: dict[uuid.UUID, int] = {
        row.run_id: row.number
        for row in session.execute(
            select(col(ModelVersion.run_id), col(ModelVersion.number)).where(
                col(ModelVersion.run_id).in_({run for run in runs if run})
            )
        )
    }
    found: dict[uuid.UUID, tuple[int | None, int | None]] = {}
    for row in rows:
        run = row.id if isinstance(row, Run) else row.run_id
        found[row.id] = (
            dataset_numbers.get(row.dataset_id) if row.dataset_id else None,
            version_numbers.get(run) if run else None,
        )
    return found


def progress_of(session: Session, run: Run) -> Sequence[RunProgress]:
    """The epochs of the run's latest attempt, in order."""
    return session.scalars(
        select(RunProgress)
        .where(col(RunProgress.run_id) == run.id, col(RunProgress.fence) == run.fence)
        .order_by(col(RunProgress.epoch))
    ).all()


def next_version_number(session: Session, pipeline_id: uuid.UUID) -> int:
    """One more than the highest; concurrent callers wait for each other until their transactions end."""
    session.execute(
        text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"version-{pipeline_id}"}
    )
    highest = session.scalar(select(func.max(ModelVersion.number)).where(col(ModelVersion.pipeline_id) == pipeline_id))
    return (highest or 0) + 1


def cycles_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[uuid.UUID]) -> Sequence[Cycle]:
    """Cycles for one page, and one more when there are more."""
    query = select(Cycle).where(col(Cycle.pipeline_id) == pipeline_id)
    return session.scalars(newest_first(query, Cycle.id, page)).all()


def runs_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[uuid.UUID]) -> Sequence[Run]:
    """Runs for one page, and one more when there are more."""
    query = select(Run).where(col(Run.pipeline_id) == pipeline_id)
    return session.scalars(newest_first(query, Run.id, page)).all()


def _versions(pipeline_id: uuid.UUID) -> Select[ModelVersion, int]:
    return (
        select(ModelVersion, col(Dataset.number))
        .join(Dataset, col(Dataset.id) == col(ModelVersion.dataset_id))
        .where(col(ModelVersion.pipeline_id) == pipeline_id)
    )


def versions_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[int]) -> Sequence[Row[ModelVersion, int]]:
    """Versions with the numbers of their datasets for one page, and one more when there are more."""
    return session.execute(newest_first(_versions(pipeline_id), ModelVersion.number, page)).all()


def version_numbered(session: Session, pipeline_id: uuid.UUID, number: int) -> Row[ModelVersion, int]:
    """One version with the number of its dataset.

    Raises:
        NotFound: the pipeline has no version of that number.
    """
    row = session.execute(_versions(pipeline_id).where(col(ModelVersion.number) == number)).one_or_none()
    if row is None:
        raise NotFound(f"This pipeline has no version {number}.")
    return row


def set_schedule(session: Session, pipeline_id: uuid.UUID, *, cron: str | None, paused: bool, changed_by: str) -> None:
    """Write the schedule row."""
    values: dict[str, Any] = {"cron": cron, "paused": paused, "changed_by": changed_by, "changed_at": func.now()}
    statement = insert(Schedule).values(pipeline_id=pipeline_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["pipeline_id"], set_=values))


def nudge_stalled_cycles(session: Session, *, renudge_after_s: float) -> int:
    """Nudge cycles that are not at their end and were not looked at or nudged for a while."""
    stale = func.now() - timedelta(seconds=renudge_after_s)
    rows = session.scalars(
        select(Cycle)
        .where(
            col(Cycle.state).in_([*OPEN_CYCLES, CycleState.HELD]),
            or_(col(Cycle.nudged_at).is_(None), col(Cycle.nudged_at) < stale),
            or_(col(Cycle.advanced_at).is_(None), col(Cycle.advanced_at) < stale),
        )
        .with_for_update(skip_locked=True)
    ).all()
    now = database_now(session)
    for row in rows:
        row.nudged_at = now
        enqueue(session, TaskName.ADVANCE_CYCLE, row.id)
    return len(rows)


def deployed_pipelines(session: Session) -> Sequence[uuid.UUID]:
    """Pipelines that have a live model."""
    return session.scalars(select(col(Deployment.pipeline_id))).all()


def pipeline_names(session: Session) -> Sequence[str]:
    """Every pipeline, by name."""
    return session.scalars(select(col(Pipeline.name)).order_by(col(Pipeline.name))).all()


def schedule_of(session: Session, pipeline_id: uuid.UUID) -> Schedule | None:
    """The schedule row, if someone changed the spec's."""
    return session.get(Schedule, pipeline_id)


def lock_schedule(session: Session, pipeline_id: uuid.UUID) -> bool:
    """Whether this transaction alone looks at the pipeline's schedule; another one that looks is not waited for."""
    return bool(
        session.scalar(select(func.pg_try_advisory_xact_lock(func.hashtextextended(f"schedule-{pipeline_id}", 0))))
    )


def last_slot(session: Session, pipeline_id: uuid.UUID) -> datetime | None:
    """The newest slot that was taken."""
    return session.scalar(select(func.max(ScheduleSlot.slot)).where(col(ScheduleSlot.pipeline_id) == pipeline_id))


def take_slot(session: Session, pipeline_id: uuid.UUID, slot: datetime) -> bool:
    """Whether this transaction is the one that has the slot: its key holds even where the schedule's lock does not."""
    statement = (
        insert(ScheduleSlot)
        .values(pipeline_id=pipeline_id, slot=slot)
        .on_conflict_do_nothing()
        .returning(col(ScheduleSlot.slot))
    )
    return session.execute(statement).one_or_none() is not None


def note_slot_cycle(session: Session, pipeline_id: uuid.UUID, slot: datetime, cycle_id: uuid.UUID) -> None:
    """Record which cycle a slot started."""
    session.execute(
        update(ScheduleSlot)
        .where(col(ScheduleSlot.pipeline_id) == pipeline_id, col(ScheduleSlot.slot) == slot)
        .values(cycle_id=cycle_id)
    )


def has_open_cycle(session: Session, pipeline_id: uuid.UUID) -> bool:
    """Whether a cycle of the pipeline is still at work (held ones wait for a person, and do not count)."""
    query = select(col(Cycle.id)).where(col(Cycle.pipeline_id) == pipeline_id, col(Cycle.state).in_(OPEN_CYCLES))
    return session.scalars(query.limit(1)).one_or_none() is not None


def open_cycles(session: Session) -> int:
    """How many cycles are at work."""
    query = select(func.count()).select_from(Cycle).where(col(Cycle.state).in_(OPEN_CYCLES))
    return session.scalar(query) or 0


def ensure_partitions(session: Session) -> None:
    """Make this and the next month's partitions of the prediction log."""
    for months in (0, 1):
        month: Any = func.date_trunc("month", func.now(), "UTC") + func.make_interval(0, months)
        session.execute(select(func.ensure_prediction_partition(month)))
