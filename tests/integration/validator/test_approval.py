"""What is held, and a person's word on it."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from services.validator.approval import approve, reject
from services.validator.config import ValidatorSettings
from services.validator.release import release
from services.validator.validate import validate
from shared.contracts.tasks import TaskName
from shared.errors import Conflict, NotFound
from shared.registry.session import Sessions
from shared.registry.states import Decision, ReleaseState, VersionState
from shared.registry.tables import Alert, ModelVersion, OutboxMessage, Validation
from tests.integration.validator.serving import Serving, problem
from tests.integration.validator.world import World, spec_document


@pytest.fixture
def world(sessions: Sessions, settings: ValidatorSettings) -> World:
    return World.make(sessions, settings.artifacts_url, spec_document(approval="manual"))


def held(world: World, settings: ValidatorSettings, candidate: ModelVersion) -> uuid.UUID:
    row = world.validation(candidate, cycle_id=world.cycle())
    validate(world.sessions, world.store, settings, row)
    assert world.get(Validation, row).decision == Decision.HOLD
    return row


def decide(world: World, act, row: uuid.UUID) -> Validation:
    with world.sessions.begin() as session:
        act(session, world.spec.name, row, by="ana", reason="looked at the report")
    found: Validation = world.get(Validation, row)
    return found


def test_approved_it_is_released(world: World, settings: ValidatorSettings, serving: Serving) -> None:
    candidate = world.version()
    row_id = held(world, settings, candidate)
    row = decide(world, approve, row_id)
    assert (row.decision, row.release_state, row.decided_by) == (Decision.PROMOTE, ReleaseState.PENDING, "ana")
    assert row.decided_at is not None
    assert world.get(ModelVersion, candidate.id).state == VersionState.VALIDATED
    release(world.sessions, serving.client, row_id, webhook=False)
    assert world.get(Validation, row_id).release_state == ReleaseState.DONE
    assert world.live().live_version_id == candidate.id  # type: ignore[union-attr]


def test_each_refusal_of_an_approved_release_raises_an_alert(
    world: World, settings: ValidatorSettings, serving: Serving
) -> None:
    row_id = held(world, settings, world.version())
    for attempt in (1, 2):
        serving.answers = [problem(409, f"Promotions are frozen ({attempt}).")]
        decide(world, approve, row_id)
        for _ in range(2):  # a repeated nudge finds nothing to do
            release(world.sessions, serving.client, row_id, webhook=True)
        assert world.get(Validation, row_id).decision == Decision.HOLD
    with world.sessions.begin() as session:
        alerts = session.scalars(select(Alert).order_by(Alert.id)).all()  # type: ignore[arg-type]
        to_deliver = select(OutboxMessage.row_id).where(OutboxMessage.task == TaskName.DELIVER_ALERT)  # type: ignore[arg-type]
        delivered = session.scalars(to_deliver.order_by(OutboxMessage.id)).all()  # type: ignore[arg-type]
    assert [(alert.kind, alert.validation_id) for alert in alerts] == [("release-refused", row_id)] * 2
    assert ["frozen (1)" in alerts[0].message, "frozen (2)" in alerts[1].message] == [True, True]
    assert list(delivered) == [alert.id for alert in alerts]


def test_rejected_it_is_not(world: World, settings: ValidatorSettings) -> None:
    candidate = world.version()
    row = decide(world, reject, held(world, settings, candidate))
    assert (row.decision, row.release_state, row.reason) == (Decision.REJECT, None, "looked at the report")
    assert world.get(ModelVersion, candidate.id).state == VersionState.REJECTED
    with world.sessions.begin() as session:
        last = session.scalars(select(OutboxMessage).order_by(OutboxMessage.id.desc())).first()  # type: ignore[union-attr]
    assert last is not None
    assert (last.task, last.row_id) == (TaskName.ADVANCE_CYCLE, row.cycle_id)


def test_only_once(world: World, settings: ValidatorSettings) -> None:
    row = held(world, settings, world.version())
    decide(world, reject, row)
    with pytest.raises(Conflict, match="decided already: reject"):
        decide(world, approve, row)


def test_not_before_the_verdict(world: World) -> None:
    with pytest.raises(Conflict, match="queued without a decision"):
        decide(world, approve, world.validation(world.version()))


def test_not_in_another_pipeline(world: World) -> None:
    with pytest.raises(NotFound):
        decide(world, approve, uuid.uuid4())


def test_not_after_production_changed(world: World, settings: ValidatorSettings) -> None:
    row = held(world, settings, world.version())
    world.deploy(world.version())
    with pytest.raises(Conflict, match="Another model went into production"):
        decide(world, approve, row)
    decide(world, reject, row)


def test_production_that_changes_after_the_approval_voids_it(
    world: World, settings: ValidatorSettings, serving: Serving
) -> None:
    candidate = world.version()
    row_id = held(world, settings, candidate)
    decide(world, approve, row_id)
    world.deploy(world.version())
    release(world.sessions, serving.client, row_id, webhook=False)
    row: Validation = world.get(Validation, row_id)
    assert (row.decision, row.release_state, row.rejudged) == (Decision.HOLD, None, 0)
    assert world.get(ModelVersion, candidate.id).state == VersionState.HELD
    assert serving.asked == []


def test_not_when_a_newer_verdict_exists(world: World, settings: ValidatorSettings) -> None:
    candidate = world.version()
    older = held(world, settings, candidate)
    held(world, settings, candidate)
    with pytest.raises(Conflict, match="judged again since"):
        decide(world, approve, older)


def test_the_decision_that_came_last_counts_not_the_one_asked_for_last(
    world: World, settings: ValidatorSettings, serving: Serving
) -> None:
    candidate = world.version()
    slow, quick = held(world, settings, candidate), held(world, settings, candidate)
    with world.sessions.begin() as session:
        session.get_one(Validation, slow).finished_at = session.scalar(select(func.now() + timedelta(minutes=1)))
    with pytest.raises(Conflict, match="judged again since"):
        decide(world, approve, quick)
    decide(world, approve, slow)
    release(world.sessions, serving.client, slow, webhook=False)
    assert world.live().live_version_id == candidate.id  # type: ignore[union-attr]
