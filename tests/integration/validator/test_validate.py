"""From a queued row to a verdict with all that follows, in one transaction."""

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import col

from services.validator import validate as judging
from services.validator.config import ValidatorSettings
from services.validator.validate import validate
from shared.contracts.tasks import TaskName
from shared.errors import Unavailable
from shared.jobs import lease as leases
from shared.jobs.work import VALIDATION
from shared.registry.session import Sessions
from shared.registry.states import Decision, ReleaseState, ValidationState, VersionState
from shared.registry.tables import Alert, ModelVersion, OutboxMessage, Validation
from tests.integration.validator.world import DAYS, PER_DAY, START, World, spec_document


def judged(world: World, settings: ValidatorSettings, candidate: ModelVersion, **values: object) -> Validation:
    row = world.validation(candidate, **values)
    validate(world.sessions, world.store, settings, row)
    found: Validation = world.get(Validation, row)
    return found


def nudges(world: World) -> list[tuple[str, object]]:
    with world.sessions.begin() as session:
        return [(m.task, m.row_id) for m in session.scalars(select(OutboxMessage).order_by(col(OutboxMessage.id)))]


def alerts(world: World) -> list[Alert]:
    with world.sessions.begin() as session:
        return list(session.scalars(select(Alert)))


def test_a_sane_first_model_is_promoted(world: World, settings: ValidatorSettings) -> None:
    candidate, cycle = world.version(), world.cycle()
    row = judged(world, settings, candidate, cycle_id=cycle)
    assert (row.state, row.decision) == (ValidationState.PASSED, Decision.PROMOTE)
    assert (row.release_state, row.baseline_id, row.baseline_generation) == (ReleaseState.PENDING, None, None)
    assert row.sentence is not None
    assert row.sentence.startswith("The first model is sane on 2,100 rows of 14 days")
    assert world.get(ModelVersion, candidate.id).state == VersionState.VALIDATED
    assert nudges(world) == [(TaskName.RELEASE, row.id), (TaskName.ADVANCE_CYCLE, cycle)]
    report = row.report
    assert report["candidate"]["auc"] > 0.7
    assert report["candidate"]["latency"]["one_row_p99_ms"] > 0
    assert sum(b["rows"] for b in report["candidate"]["reliability"]) == DAYS * PER_DAY
    assert (report["first_day"], report["last_day"]) == ("2013-03-01", "2013-03-14")


def test_a_first_model_that_is_not_sane_is_rejected_with_an_alert(world: World, settings: ValidatorSettings) -> None:
    candidate = world.version(weight=-1.0)
    row = judged(world, settings, candidate)
    assert (row.state, row.decision, row.release_state) == (ValidationState.REJECTED, Decision.REJECT, None)
    (alert,) = alerts(world)
    assert (alert.kind, alert.severity, alert.validation_id) == ("candidate-insane", "critical", row.id)
    assert "AUC" in alert.message


@pytest.mark.parametrize(
    ("weight", "state", "decision", "version_state"),
    [
        (1.0, ValidationState.PASSED, Decision.PROMOTE, VersionState.VALIDATED),
        (0.2, ValidationState.REJECTED, Decision.REJECT, VersionState.REJECTED),
    ],
)
def test_against_the_model_in_production(
    world: World, settings: ValidatorSettings, weight: float, state: str, decision: str, version_state: str
) -> None:
    live = world.version(weight=0.9)
    generation = world.deploy(live)
    candidate = world.version(weight=weight)
    row = judged(world, settings, candidate)
    assert (row.state, row.decision) == (state, decision)
    assert (row.baseline_id, row.baseline_generation) == (live.id, generation)
    assert world.get(ModelVersion, candidate.id).state == version_state
    assert row.report["comparison"]["rows"] == DAYS * PER_DAY
    assert row.report["baseline"]["version"] == live.number
    kinds = [(a.kind, a.severity) for a in alerts(world)]
    assert kinds == ([("candidate-worse", "warning")] if decision == Decision.REJECT else [])


@pytest.mark.parametrize(("inconclusive", "decision"), [("promote", Decision.PROMOTE), ("hold", Decision.HOLD)])
def test_the_spec_decides_what_the_rows_do_not(
    sessions: Sessions, settings: ValidatorSettings, inconclusive: str, decision: str
) -> None:
    document = spec_document(margin=0.0001, inconclusive=inconclusive)
    world = World.make(sessions, settings.artifacts_url, document)
    world.deploy(world.version(weight=0.9, bias=0.1))
    candidate = world.version(weight=0.9, bias=-0.1)
    row = judged(world, settings, candidate)
    assert (row.state, row.decision) == (ValidationState.INCONCLUSIVE, decision)
    assert row.report["comparison"]["rows_to_settle"] > DAYS * PER_DAY


def test_manual_approval_holds_what_passes(sessions: Sessions, settings: ValidatorSettings) -> None:
    world = World.make(sessions, settings.artifacts_url, spec_document(approval="manual"))
    candidate = world.version()
    row = judged(world, settings, candidate)
    assert (row.state, row.decision, row.release_state) == (ValidationState.PASSED, Decision.HOLD, None)
    assert world.get(ModelVersion, candidate.id).state == VersionState.HELD


def test_regression_is_judged_by_squared_error(sessions: Sessions, settings: ValidatorSettings) -> None:
    world = World.make(sessions, settings.artifacts_url, spec_document("regression", margin=0.02))
    first = judged(world, settings, world.version(weight=1.0))
    assert (first.state, first.decision) == (ValidationState.PASSED, Decision.PROMOTE)
    assert first.report["candidate"]["rmse"] == pytest.approx(1, abs=0.1)
    assert first.report["candidate"]["auc"] is None
    world.deploy(world.version(weight=1.0))
    worse = judged(world, settings, world.version(weight=0.5))
    assert worse.state == ValidationState.REJECTED
    assert worse.sentence is not None
    assert "squared error" in worse.sentence


def test_rows_that_either_model_was_trained_on_are_left_out(world: World, settings: ValidatorSettings) -> None:
    world.deploy(world.version(weight=0.9, train_end=START + timedelta(days=5)))
    row = judged(world, settings, world.version())
    assert row.report["rows"] == 9 * PER_DAY
    assert row.report["rows_left_out"] == 5 * PER_DAY
    assert row.report["first_day"] == "2013-03-06"


def test_too_few_rows_are_held_though_the_spec_promotes_what_is_inconclusive(
    world: World, settings: ValidatorSettings
) -> None:
    world.deploy(world.version(weight=0.9, train_end=START + timedelta(days=DAYS)))
    row = judged(world, settings, world.version())
    assert (row.state, row.decision) == (ValidationState.INCONCLUSIVE, Decision.HOLD)
    assert row.report["reason"] == "too-few-rows"


def test_a_candidate_without_numbers_is_rejected(world: World, settings: ValidatorSettings) -> None:
    world.deploy(world.version())
    row = judged(world, settings, world.version(broken=True))
    assert (row.state, row.report["reason"]) == (ValidationState.REJECTED, "bad-candidate")


def test_a_production_model_that_cannot_read_the_rows_holds_the_candidate(
    world: World, settings: ValidatorSettings
) -> None:
    world.deploy(world.version())
    row = judged(world, settings, world.version(rows=world.rows()))
    assert row.state == ValidationState.PASSED
    live = world.version()
    with world.sessions.begin() as session:
        signature = {**live.signature, "inputs": [{"name": "gone", "kind": "number"}, *live.signature["inputs"]]}
        session.get_one(ModelVersion, live.id).signature = signature
    world.deploy(live)
    row = judged(world, settings, world.version())
    assert (row.state, row.decision) == (ValidationState.INCONCLUSIVE, Decision.HOLD)
    assert row.sentence is not None
    assert "no column gone" in row.sentence


def test_a_named_baseline_informs_only(world: World, settings: ValidatorSettings) -> None:
    other, candidate = world.version(weight=0.9), world.version(weight=0.2)
    row = judged(world, settings, candidate, requested_baseline_id=other.id)
    assert (row.state, row.decision, row.release_state) == (ValidationState.REJECTED, None, None)
    assert world.get(ModelVersion, candidate.id).state == VersionState.CANDIDATE
    assert alerts(world) == []
    assert nudges(world) == []


def test_a_rejected_version_may_be_judged_again(world: World, settings: ValidatorSettings) -> None:
    world.deploy(world.version(weight=1.0))
    candidate = world.version(weight=0.2)
    assert judged(world, settings, candidate).decision == Decision.REJECT
    world.deploy(world.version(weight=0.1))
    assert judged(world, settings, candidate).decision == Decision.PROMOTE
    assert world.get(ModelVersion, candidate.id).state == VersionState.VALIDATED


def test_a_lost_dataset_fails_the_validation_for_good(world: World, settings: ValidatorSettings) -> None:
    candidate, cycle = world.version(), world.cycle()
    with world.sessions.begin() as session:
        session.execute(text("update datasets set digest = repeat('0', 64)"))
    row = judged(world, settings, candidate, cycle_id=cycle)
    assert (row.state, row.decision) == (ValidationState.FAILED, None)
    assert row.reason is not None
    assert row.reason.startswith("No verdict could be reached: ")
    assert nudges(world) == [(TaskName.ADVANCE_CYCLE, cycle)]
    assert world.get(ModelVersion, candidate.id).state == VersionState.CANDIDATE


@pytest.mark.parametrize(
    ("fault", "attempt", "words"),
    [
        (Unavailable("cannot read the artifact store"), 0, "cannot read the artifact store. It is tried again after"),
        (OperationalError("select", {}, psycopg.OperationalError("lost")), 0, "The registry could not be reached."),
        (PoolTimeout("no connection was free"), 0, "The registry could not be reached."),
        (OperationalError("select", {}, psycopg.errors.QueryCanceled("slow")), 1, "The registry broke off the work"),
    ],
    ids=["store away", "registry away", "no connection", "query too long"],
)
def test_only_an_outage_uses_up_no_attempt(
    world: World,
    settings: ValidatorSettings,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    attempt: int,
    words: str,
) -> None:
    row = world.validation(world.version())

    def away(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("services.validator.validate.read_held_out", away)
    validate(world.sessions, world.store, settings, row)
    after: Validation = world.get(Validation, row)
    assert (after.state, after.attempt) == (ValidationState.QUEUED, attempt)
    assert after.reason is not None
    assert after.reason.startswith(words)


@pytest.mark.parametrize("step", ["read_held_out", "_model", "compare"])
def test_a_worker_that_is_asked_to_stop_hands_its_validation_over(
    world: World, settings: ValidatorSettings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    world.deploy(world.version(weight=0.9))
    row, stopping = world.validation(world.version()), threading.Event()
    act = getattr(judging, step)

    def asked_to_stop(*arguments: Any, **values: Any) -> Any:
        stopping.set()
        return act(*arguments, **values)

    monkeypatch.setattr(judging, step, asked_to_stop)
    validate(world.sessions, world.store, settings, row, stopping=stopping)
    after: Validation = world.get(Validation, row)
    assert (after.state, after.attempt, after.lease_until) == (ValidationState.QUEUED, 0, None)
    assert after.reason == leases.STOPPED
    assert nudges(world) == [(TaskName.VALIDATE, row)]
    monkeypatch.undo()
    validate(world.sessions, world.store, settings, row)
    assert world.get(Validation, row).state == ValidationState.PASSED


def test_a_repeated_nudge_does_nothing(world: World, settings: ValidatorSettings) -> None:
    row = judged(world, settings, world.version())
    before = nudges(world)
    validate(world.sessions, world.store, settings, row.id)
    assert nudges(world) == before
    assert world.get(Validation, row.id).attempt == 1


def test_a_worker_that_was_presumed_dead_writes_nothing(
    world: World, settings: ValidatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = world.version()
    row = world.validation(candidate)

    def overtaken(*_: object) -> None:
        with world.sessions.begin() as session:
            session.execute(text("update validations set fence = fence + 1"))

    monkeypatch.setattr(leases.Lease, "check", overtaken)
    validate(world.sessions, world.store, settings, row)
    after: Validation = world.get(Validation, row)
    assert (after.state, after.decision) == (ValidationState.RUNNING, None)
    assert world.get(ModelVersion, candidate.id).state == VersionState.CANDIDATE
    assert nudges(world) == []


def test_judging_the_same_versions_twice_gives_the_same_verdict(world: World, settings: ValidatorSettings) -> None:
    world.deploy(world.version(weight=0.9))
    candidate = world.version()
    first, second = (judged(world, settings, candidate) for _ in range(2))
    assert first.report["comparison"] == second.report["comparison"]
    assert first.sentence == second.sentence


def test_the_lease_is_taken_as_for_all_work(world: World) -> None:
    row = world.validation(world.version())
    assert leases.claim(world.sessions, VALIDATION, row, lease_s=30, max_attempts=3) is not None
    assert leases.claim(world.sessions, VALIDATION, row, lease_s=30, max_attempts=3) is None
