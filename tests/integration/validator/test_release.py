"""Taking a promoted candidate into production: by compare-and-set, once, never by force."""

import threading
import uuid

import httpx
import pytest
from sqlalchemy import func, select

from services.serving.errors import NotLoadable
from services.validator import release as module
from services.validator.config import ValidatorSettings
from services.validator.release import MOST_REJUDGED, release
from services.validator.validate import validate
from shared.contracts.tasks import TaskName
from shared.jobs.sweeper import sweep
from shared.registry.states import Decision, ReleaseState, ValidationState, VersionState
from shared.registry.tables import Alert, DeploymentChange, ModelVersion, OutboxMessage, Validation
from tests.integration.validator.serving import Serving, problem
from tests.integration.validator.world import World


@pytest.fixture
def live(world: World) -> ModelVersion:
    version = world.version(weight=0.8)
    world.deploy(version)
    return version


def promoted(world: World, settings: ValidatorSettings, candidate: ModelVersion) -> uuid.UUID:
    row = world.validation(candidate, cycle_id=world.cycle())
    validate(world.sessions, world.store, settings, row)
    assert world.get(Validation, row).release_state == ReleaseState.PENDING
    return row


def step(world: World, serving: Serving, row: uuid.UUID) -> Validation:
    release(world.sessions, serving.client, row, webhook=False)
    found: Validation = world.get(Validation, row)
    return found


def cycle_nudges(world: World) -> int:
    with world.sessions.begin() as session:
        tasks = session.scalars(select(OutboxMessage.task)).all()
    return sum(task == TaskName.ADVANCE_CYCLE for task in tasks)


def test_first_model(world: World, settings: ValidatorSettings, serving: Serving) -> None:
    candidate = world.version()
    row = step(world, serving, promoted(world, settings, candidate))
    assert (row.release_state, row.released_generation) == (ReleaseState.DONE, 1)
    assert serving.asked[0]["expected_generation"] == 0
    with world.sessions.begin() as session:
        (change,) = session.scalars(select(DeploymentChange))
    assert (change.version_id, change.validation_id, change.override) == (candidate.id, row.id, None)
    assert change.effective_at == candidate.as_of  # trained in a replay, long after its as_of
    assert change.reason == row.sentence
    assert cycle_nudges(world) == 2  # the verdict, and the release


def test_replaces_the_model_it_was_compared_with(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    candidate = world.version()
    row = step(world, serving, promoted(world, settings, candidate))
    assert row.release_state == ReleaseState.DONE
    deployment = world.live()
    assert deployment is not None
    assert (deployment.live_version_id, deployment.generation) == (candidate.id, row.released_generation)


def test_serving_away_leaves_it_pending_and_the_sweeper_nudges_again(
    world: World, settings: ValidatorSettings, serving: Serving
) -> None:
    row_id = promoted(world, settings, world.version())
    serving.answers = [httpx.ConnectError("refused"), problem(503, "warming up"), problem(401, "no such key")]
    for _ in range(3):
        row = step(world, serving, row_id)
        assert row.release_state == ReleaseState.PENDING
        assert row.reason is not None
    with world.sessions.begin() as session:
        assert sweep(session, max_attempts=3, renudge_after_s=0) == 1
    row = step(world, serving, row_id)
    assert (row.release_state, row.reason) == (ReleaseState.DONE, None)
    assert [order == serving.asked[0] for order in serving.asked] == [True] * 4  # the same order each time


def test_a_lost_answer_is_found_in_the_registry(world: World, settings: ValidatorSettings, serving: Serving) -> None:
    row_id = promoted(world, settings, world.version())
    serving.lose_answer = True
    assert step(world, serving, row_id).release_state == ReleaseState.PENDING
    row = step(world, serving, row_id)
    assert (row.release_state, row.released_generation) == (ReleaseState.DONE, 1)
    assert len(serving.asked) == 1


def test_another_model_in_production_means_another_verdict(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    candidate = world.version()
    row_id = promoted(world, settings, candidate)
    rival = world.version(weight=0.9)
    serving.before = lambda: None if world.live().live_version_id == rival.id else world.deploy(rival)  # type: ignore[union-attr, func-returns-value]
    row = step(world, serving, row_id)  # serving answers 409: the rows tell why
    assert row.release_state == ReleaseState.PENDING
    row = step(world, serving, row_id)
    assert (row.state, row.release_state, row.rejudged, row.attempt) == (
        ValidationState.QUEUED, ReleaseState.CONFLICT, 1, 0,
    )  # fmt: skip
    assert row.decision is None  # so the database itself refuses the release meanwhile
    validate(world.sessions, world.store, settings, row_id)
    row = step(world, serving, row_id)
    assert (row.release_state, row.baseline_id) == (ReleaseState.DONE, rival.id)
    assert world.live().live_version_id == candidate.id  # type: ignore[union-attr]


def test_a_change_that_leaves_the_model_does_not_void_the_verdict(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    row_id = promoted(world, settings, world.version())
    other = world.version(weight=0.9)
    world.deploy(other)
    world.deploy(live)  # two generations on, the same model
    row = step(world, serving, row_id)
    assert row.release_state == ReleaseState.DONE
    assert row.rejudged == 0


def test_judged_again_only_so_often(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    candidate = world.version()
    row_id = promoted(world, settings, candidate)
    for _ in range(MOST_REJUDGED):
        world.deploy(world.version(weight=0.9))
        assert step(world, serving, row_id).state == ValidationState.QUEUED
        validate(world.sessions, world.store, settings, row_id)
    world.deploy(world.version(weight=0.9))
    row = step(world, serving, row_id)
    assert (row.decision, row.release_state) == (Decision.HOLD, None)
    assert world.get(ModelVersion, candidate.id).state == VersionState.HELD
    assert serving.asked == []


def test_what_serving_refuses_is_held_with_an_alert(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    candidate = world.version()
    row_id = promoted(world, settings, candidate)
    serving.answers = [problem(409, "Promotions are frozen over the holidays.")]
    row = step(world, serving, row_id)
    assert (row.decision, row.release_state) == (Decision.HOLD, None)
    assert row.reason == "Serving refused version 2: Promotions are frozen over the holidays."
    assert world.get(ModelVersion, candidate.id).state == VersionState.HELD
    with world.sessions.begin() as session:
        (alert,) = session.scalars(select(Alert))
    assert (alert.kind, alert.severity) == ("release-refused", "critical")
    assert world.live().live_version_id == live.id  # type: ignore[union-attr]


def test_what_serving_cannot_load_is_rejected_with_an_alert(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    candidate = world.version()
    row_id = promoted(world, settings, candidate)
    serving.answers = [problem(409, "Version 2 of delays cannot serve: it is damaged.", NotLoadable.slug)]
    row = step(world, serving, row_id)
    assert (row.decision, row.release_state) == (Decision.REJECT, None)
    assert row.reason is not None
    assert "it is damaged" in row.reason
    assert world.get(ModelVersion, candidate.id).state == VersionState.REJECTED
    assert cycle_nudges(world) == 2  # the verdict, and its end
    with world.sessions.begin() as session:
        (alert,) = session.scalars(select(Alert))
    assert (alert.kind, alert.severity) == ("release-refused", "critical")
    assert world.live().live_version_id == live.id  # type: ignore[union-attr]


def test_a_release_that_waits_does_not_outrun_a_newer_verdict(
    world: World, settings: ValidatorSettings, serving: Serving, live: ModelVersion
) -> None:
    candidate = world.version()
    waiting = promoted(world, settings, candidate)
    newer = world.validation(candidate)
    with world.sessions.begin() as session:
        row = session.get_one(Validation, newer)
        row.state, row.decision = ValidationState.REJECTED, Decision.REJECT
        row.finished_at = session.scalar(select(func.now()))
        session.get_one(ModelVersion, candidate.id).state = VersionState.REJECTED
    row = step(world, serving, waiting)
    assert (row.decision, row.release_state) == (Decision.HOLD, None)
    assert world.get(ModelVersion, candidate.id).state == VersionState.REJECTED
    assert world.live().live_version_id == live.id  # type: ignore[union-attr]


def test_two_workers_release_once(world: World, settings: ValidatorSettings, serving: Serving) -> None:
    row_id = promoted(world, settings, world.version())
    both = threading.Barrier(2)
    serving.before = lambda: both.wait(30) and None
    workers = [threading.Thread(target=step, args=(world, serving, row_id)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    row: Validation = world.get(Validation, row_id)
    assert (row.release_state, row.released_generation) == (ReleaseState.DONE, 1)
    with world.sessions.begin() as session:
        assert len(session.scalars(select(DeploymentChange)).all()) == 1


def test_nothing_happens_when_nothing_is_pending(world: World, serving: Serving) -> None:
    row_id = world.validation(world.version())
    step(world, serving, row_id)
    release(world.sessions, serving.client, module.new_id(), webhook=False)
    assert serving.asked == []
