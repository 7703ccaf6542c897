"""A cycle's whole way over real rows: every end it can come to, and what lies in its way."""

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from services.trainer.cycle_repository import nudge_stalled_cycles
from services.trainer.cycles import advance, cancel
from shared.config import psycopg_url
from shared.contracts.tasks import TaskName
from shared.errors import Conflict
from shared.registry.session import Sessions, make_sessions, open_engine
from shared.registry.states import CycleState, DatasetState, Decision, ReleaseState, RunState, ValidationState
from shared.registry.tables import Cycle, Dataset, Run, SpecVersion, Validation
from tests.integration.trainer.neighbours import Neighbours
from tests.support.rows import AS_OF, Rows

PASSED, PROMOTE = ValidationState.PASSED, Decision.PROMOTE


class Driver:
    """One cycle and its neighbours, with the checks that follow every step."""

    def __init__(self, rows: Rows, sessions: Sessions, neighbours: Neighbours) -> None:
        self.rows, self.sessions, self.near = rows, sessions, neighbours
        self.id = rows.cycle(neighbours.pipeline)

    @property
    def row(self) -> Cycle:
        found = self.rows.get(Cycle, self.id)
        assert isinstance(found, Cycle)
        return found

    def advance(self, expected: CycleState) -> Cycle:
        """A nudge, and the same nudge again, which changes nothing."""
        advance(self.sessions, self.near.peers, self.id)
        once, asked = self.row, self.near.asked.copy()
        advance(self.sessions, self.near.peers, self.id)
        again = self.row
        assert once.state == expected, once.reason
        skip = {"advanced_at"}
        assert once.model_dump(exclude=skip) == again.model_dump(exclude=skip)
        assert self.near.asked == asked
        return again

    def to_training(self) -> None:
        self.advance(CycleState.DATASET)
        self.near.build(self.id)
        self.advance(CycleState.TRAINING)

    def to_validating(self) -> None:
        self.to_training()
        self.near.train(self.id)
        self.advance(CycleState.VALIDATING)


@pytest.fixture
def cycle(rows: Rows, sessions: Sessions, neighbours: Neighbours) -> Driver:
    return Driver(rows, sessions, neighbours)


def test_the_whole_way_to_a_release(cycle: Driver) -> None:
    rows, near = cycle.rows, cycle.near
    cycle.advance(CycleState.DATASET)
    (dataset,) = rows.all(Dataset)
    assert (cycle.row.dataset_id, dataset.cycle_id) == (dataset.id, cycle.id)
    assert cycle.row.spec_version == dataset.spec_version == 1

    near.build(cycle.id, DatasetState.BUILDING)
    cycle.advance(CycleState.DATASET)
    near.build(cycle.id)
    cycle.advance(CycleState.TRAINING)
    (run,) = rows.all(Run)
    assert (run.dataset_id, run.cycle_id, run.state, run.seed) == (dataset.id, cycle.id, RunState.QUEUED, 7)
    assert (TaskName.TRAIN, run.id) in rows.nudges()

    near.train(cycle.id)
    cycle.advance(CycleState.VALIDATING)
    (verdict,) = rows.all(Validation)
    assert cycle.row.version_id == verdict.candidate_id

    near.judge(cycle.id, PASSED, PROMOTE, release=ReleaseState.PENDING, sentence="Better by 0.01.")
    assert cycle.advance(CycleState.VALIDATING).finished_at is None
    near.judge(cycle.id, PASSED, PROMOTE, release=ReleaseState.DONE, sentence="Better by 0.01.")
    ended = cycle.advance(CycleState.RELEASED)
    assert ended.reason == "Better by 0.01."
    assert ended.finished_at is not None
    assert set(near.asked.values()) == {1}


@pytest.mark.parametrize(
    ("decision", "release", "end"),
    [(PROMOTE, ReleaseState.DONE, CycleState.RELEASED), (Decision.REJECT, None, CycleState.REJECTED)],
)
def test_held_until_somebody_decides(
    cycle: Driver, decision: Decision, release: ReleaseState | None, end: CycleState
) -> None:
    cycle.to_validating()
    unclear = ValidationState.INCONCLUSIVE
    cycle.near.judge(cycle.id, unclear, Decision.HOLD, sentence="900 more rows would settle it.")
    assert cycle.advance(CycleState.HELD).reason == "900 more rows would settle it."
    if decision is PROMOTE:
        cycle.near.judge(cycle.id, unclear, decision, release=ReleaseState.PENDING)
        cycle.advance(CycleState.HELD)
    cycle.near.judge(cycle.id, unclear, decision, release=release)
    cycle.advance(end)


def nudged(cycle: Driver) -> bool:
    """Whether the sweeper nudges the cycle, that nobody has looked at for long."""
    cycle.rows.set(Cycle, cycle.id, advanced_at=None, nudged_at=None)
    with cycle.sessions.begin() as session:
        return nudge_stalled_cycles(session, renudge_after_s=60) == 1


@pytest.mark.parametrize(
    ("decision", "release", "end"),
    [(PROMOTE, ReleaseState.DONE, CycleState.RELEASED), (Decision.REJECT, None, CycleState.REJECTED)],
)
def test_a_held_verdict_that_another_one_supersedes(
    cycle: Driver, decision: Decision, release: ReleaseState | None, end: CycleState
) -> None:
    cycle.to_validating()
    cycle.near.judge(cycle.id, ValidationState.INCONCLUSIVE, Decision.HOLD, sentence="Unclear.")
    cycle.advance(CycleState.HELD)
    assert not nudged(cycle), "it waits for a person"

    rows, version = cycle.rows, cycle.row.version_id
    assert version is not None
    facts = {"sentence": "Judged anew.", "release_state": release}
    rows.validation(cycle.near.pipeline, version, state=ValidationState.FAILED)
    rows.validation(cycle.near.pipeline, version, state=PASSED, sentence="Beside another baseline.")
    assert not nudged(cycle), "these decide nothing"
    newest = rows.validation(
        cycle.near.pipeline, version, **facts, state=ValidationState.INCONCLUSIVE, decision=Decision.HOLD
    )
    assert not nudged(cycle), "another verdict, held as well"
    cycle.advance(CycleState.HELD)

    rows.set(Validation, newest, decision=decision)
    assert nudged(cycle)
    assert cycle.advance(end).reason == "Judged anew."
    assert not nudged(cycle)


def test_a_held_cycle_follows_the_decision_that_came_last(cycle: Driver) -> None:
    cycle.to_validating()
    cycle.near.judge(cycle.id, ValidationState.INCONCLUSIVE, Decision.HOLD, sentence="Unclear.")
    cycle.advance(CycleState.HELD)
    rows, version, own = cycle.rows, cycle.row.version_id, cycle.row.validation_id
    assert version is not None
    assert own is not None
    rows.set(Validation, own, finished_at=AS_OF + timedelta(minutes=2))
    quick = rows.validation(
        cycle.near.pipeline, version, state=PASSED, decision=Decision.REJECT, finished_at=AS_OF, sentence="Worse."
    )
    assert not nudged(cycle), "asked for later, decided before"
    cycle.advance(CycleState.HELD)
    rows.set(Validation, quick, decided_at=AS_OF + timedelta(minutes=3))
    assert nudged(cycle)
    cycle.advance(CycleState.REJECTED)


def test_significantly_worse(cycle: Driver) -> None:
    cycle.to_validating()
    cycle.near.judge(cycle.id, ValidationState.REJECTED, Decision.REJECT, sentence="Worse by 0.02.")
    assert cycle.advance(CycleState.REJECTED).reason == "Worse by 0.02."


def test_each_failure_names_its_step(cycle: Driver) -> None:
    rows, near = cycle.rows, cycle.near
    cycle.advance(CycleState.DATASET)
    near.build(cycle.id, DatasetState.FAILED, "No label is mature.")
    assert cycle.advance(CycleState.FAILED).reason == "The dataset could not be built: No label is mature."

    second = Driver(rows, cycle.sessions, near)
    second.to_training()
    near.train(second.id, RunState.FAILED, "The loss became NaN.")
    assert second.advance(CycleState.FAILED).reason == "The training run failed: The loss became NaN."

    third = Driver(rows, cycle.sessions, near)
    third.to_validating()
    near.judge(third.id, ValidationState.FAILED, None, reason="No test rows.")
    assert third.advance(CycleState.FAILED).reason == "The candidate could not be judged: No test rows."

    fourth = Driver(rows, cycle.sessions, near)
    near.refusal = "There are no events yet."
    assert fourth.advance(CycleState.FAILED).reason == "The data service refused: There are no events yet."


def test_a_cancelled_run_cancels_its_cycle(cycle: Driver) -> None:
    cycle.to_training()
    cycle.near.train(cycle.id, RunState.CANCELLED, "Cancelled on request.")
    assert cycle.advance(CycleState.CANCELLED).reason == "Cancelled on request."


def test_a_service_that_is_away_delays(cycle: Driver) -> None:
    near, rows = cycle.near, cycle.rows
    near.away = {"data"}
    cycle.advance(CycleState.QUEUED)
    near.away = {"validator"}
    cycle.to_training()
    near.train(cycle.id)
    cycle.advance(CycleState.TRAINING)
    rows.forget_nudges()
    with cycle.sessions.begin() as session:
        assert nudge_stalled_cycles(session, renudge_after_s=60) == 0, "it was looked at just now"
    rows.set(Cycle, cycle.id, advanced_at=None)
    with cycle.sessions.begin() as session:
        assert nudge_stalled_cycles(session, renudge_after_s=60) == 1
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, cycle.id)]
    near.away = set()
    cycle.advance(CycleState.VALIDATING)


@pytest.fixture
def doomed(database_url: str) -> Iterator[Sessions]:
    """Sessions of a worker that is killed before each commit."""

    def die(_: object) -> None:
        raise RuntimeError("killed before the commit")

    engine = open_engine(psycopg_url(database_url))
    event.listen(engine, "commit", die)
    yield make_sessions(engine)
    engine.dispose()


@pytest.mark.parametrize("step", ["dataset", "validation"])
def test_a_crash_between_the_request_and_the_commit_repeats_harmlessly(
    cycle: Driver, doomed: Sessions, step: str
) -> None:
    if step == "validation":
        cycle.to_training()
        cycle.near.train(cycle.id)
    before = cycle.row
    with pytest.raises(RuntimeError, match="killed before the commit"):
        advance(doomed, cycle.near.peers, cycle.id)
    assert cycle.row == before, "nothing of the step was kept"
    cycle.advance(CycleState.DATASET if step == "dataset" else CycleState.VALIDATING)
    assert cycle.near.asked[f"cycle-{cycle.id}-{step}"] == 2
    assert len(cycle.rows.all(Dataset if step == "dataset" else Validation)) == 1


def test_two_workers_take_each_step_once(cycle: Driver) -> None:
    ready = threading.Barrier(4)

    def work() -> None:
        ready.wait()
        advance(cycle.sessions, cycle.near.peers, cycle.id)

    for move in (lambda: None, lambda: cycle.near.build(cycle.id), lambda: cycle.near.train(cycle.id)):
        move()
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work) for _ in range(4)]:
                future.result()
    assert cycle.row.state == CycleState.VALIDATING
    assert (len(cycle.rows.all(Dataset)), len(cycle.rows.all(Run)), len(cycle.rows.all(Validation))) == (1, 1, 1)
    assert set(cycle.near.asked.values()) == {1}


def test_a_cycle_goes_on_with_the_spec_that_its_dataset_is_built_by(cycle: Driver) -> None:
    with cycle.sessions.begin() as session:
        first = session.get_one(SpecVersion, (cycle.near.pipeline, 1))
        session.add(SpecVersion(pipeline_id=first.pipeline_id, number=2, digest=first.digest, spec=first.spec))
    cycle.near.spec_version = 2  # applied since the cycle began
    cycle.advance(CycleState.DATASET)
    assert (cycle.row.spec_version, cycle.rows.all(Dataset)[0].spec_version) == (2, 2)
    cycle.near.build(cycle.id)
    cycle.advance(CycleState.TRAINING)
    assert cycle.rows.all(Run)[0].spec_version == 2


def test_an_unknown_cycle_is_no_fault(sessions: Sessions, neighbours: Neighbours) -> None:
    advance(sessions, neighbours.peers, uuid.uuid4())


def stop(cycle: Driver) -> None:
    with cycle.sessions.begin() as session:
        cancel(session, session.get_one(Cycle, cycle.id))


def test_cancel(cycle: Driver) -> None:
    rows, near = cycle.rows, cycle.near
    cycle.to_training()
    stop(cycle)
    (run,) = rows.all(Run)
    assert (run.state, cycle.row.state, cycle.row.reason) == (
        RunState.CANCELLED,
        CycleState.CANCELLED,
        "Cancelled on request.",
    )
    cycle.advance(CycleState.CANCELLED)
    with pytest.raises(Conflict, match="cancelled already"):
        stop(cycle)

    running = Driver(rows, cycle.sessions, near)
    running.to_training()
    rows.set(Run, running.row.run_id, state=RunState.RUNNING)
    stop(running)
    assert rows.get(Run, running.row.run_id).cancel_requested
    near.train(running.id)  # it was just faster
    running.advance(CycleState.CANCELLED)


def test_what_the_validator_has_is_not_cancelled(cycle: Driver) -> None:
    cycle.to_validating()
    with pytest.raises(Conflict, match="roll the release back instead"):
        stop(cycle)
    cycle.near.judge(cycle.id, ValidationState.INCONCLUSIVE, Decision.HOLD)
    cycle.advance(CycleState.HELD)
    with pytest.raises(Conflict, match="held already"):
        stop(cycle)


def test_a_dataset_that_comes_too_late_is_not_trained_on(cycle: Driver) -> None:
    cycle.advance(CycleState.DATASET)
    stop(cycle)
    cycle.near.build(cycle.id)
    cycle.advance(CycleState.CANCELLED)
    assert cycle.rows.all(Run) == []


def test_stalled_cycles_of_every_open_state_are_nudged(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    ids = {state: rows.cycle(pipeline, state=state) for state in CycleState}
    with sessions.begin() as session:
        nudge_stalled_cycles(session, renudge_after_s=60)
    wanted = ("queued", "dataset", "training", "validating")
    assert {row for _, row in rows.nudges()} == {ids[CycleState(state)] for state in wanted}
    with sessions.begin() as session:
        assert nudge_stalled_cycles(session, renudge_after_s=60) == 0
        session.execute(text("update cycles set nudged_at = now() - interval '2 minutes'"))
        assert nudge_stalled_cycles(session, renudge_after_s=60) == len(wanted)
