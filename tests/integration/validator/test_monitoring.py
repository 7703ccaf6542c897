"""Live quality by day from the prediction log and the labels, brought up to date by what is new."""

import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select
from sqlmodel import col

from services.validator.config import ValidatorSettings
from services.validator.housekeeping import Housekeeper
from services.validator.watch import monitor
from shared.contracts.tasks import TaskName
from shared.labels import LabelSource, NewLabel, insert_labels
from shared.registry.session import Sessions
from shared.registry.tables import ModelVersion, MonitoringDay, OutboxMessage
from tests.integration.validator.world import World, spec_document

DAY = datetime(2013, 3, 20, tzinfo=UTC)


@pytest.fixture
def live(world: World) -> ModelVersion:
    version = world.version(as_of=DAY - timedelta(days=5))
    world.deploy(version)
    return version


def label(
    world: World, items: Sequence[tuple[object, float]], *, rank: LabelSource = LabelSource.EXPLICIT, at: int = 0
) -> None:
    """Label by key (a text) or by prediction (request id and row)."""
    moment = DAY + timedelta(hours=at)
    labels = [
        NewLabel(
            label=value,
            label_time=moment,
            available_at=moment,
            source=rank,
            key=about if isinstance(about, str) else None,
            prediction=None if isinstance(about, str) else about,  # type: ignore[arg-type]
        )
        for about, value in items
    ]
    with world.sessions.begin() as session:
        insert_labels(session, world.pipeline_id, labels)


def days(world: World) -> dict[date, MonitoringDay]:
    with world.sessions.begin() as session:
        return {row.day: row for row in session.scalars(select(MonitoringDay).order_by(col(MonitoringDay.day)))}


def test_a_day_without_labels_already_shows_its_bias(world: World, live: ModelVersion) -> None:
    world.log(live, ["a", "b"], [DAY, DAY + timedelta(hours=12)], [0.25, 0.75])
    assert monitor(world.sessions, world.pipeline_id) == 1
    (row,) = days(world).values()
    assert (row.day, row.predictions, row.labelled) == (DAY.date(), 2, 0)
    assert row.mean_prediction == pytest.approx(0.5)
    assert row.bias == pytest.approx(0.5 - 0.3)
    assert (row.mean_label, row.label_bias, row.loss, row.auc) == (None, None, None, None)
    assert row.versions == [live.number]
    assert row.model_age_s == pytest.approx(timedelta(days=5, hours=6).total_seconds())


def test_labels_that_come_later_renew_the_day(world: World, live: ModelVersion) -> None:
    request = world.log(live, ["a", "b", "c"], [DAY] * 3, [0.25, 0.75, 0.5])
    monitor(world.sessions, world.pipeline_id)
    label(world, [("a", 0.0), ((request, 1), 1.0)])
    assert monitor(world.sessions, world.pipeline_id) == 1
    row = days(world)[DAY.date()]
    assert (row.predictions, row.labelled, row.mean_label, row.auc) == (3, 2, 0.5, 1.0)
    assert row.loss == pytest.approx(0.2877, abs=1e-4)  # -ln(0.75)
    assert row.label_bias == pytest.approx(0.0)


def test_only_touched_days_are_recomputed(world: World, live: ModelVersion) -> None:
    world.log(live, ["a", "b"], [DAY, DAY + timedelta(days=1)], [0.2, 0.4])
    assert monitor(world.sessions, world.pipeline_id) == 2
    assert monitor(world.sessions, world.pipeline_id) == 0
    before = days(world)
    label(world, [("b", 1.0)])
    assert monitor(world.sessions, world.pipeline_id) == 1
    after = days(world)
    assert after[DAY.date()].computed_at == before[DAY.date()].computed_at
    assert after[DAY.date() + timedelta(days=1)].labelled == 1


def test_pinned_predictions_do_not_count_but_what_is_said_of_them_is_said_of_the_example(
    world: World, live: ModelVersion
) -> None:
    frozen = world.version()
    pinned = world.log(frozen, ["a"], [DAY], [0.9], pinned=True)
    world.log(live, ["a"], [DAY], [0.1])
    label(world, [((pinned, 0), 1.0)])
    monitor(world.sessions, world.pipeline_id)
    row = days(world)[DAY.date()]
    assert (row.predictions, row.labelled, row.versions) == (1, 1, [live.number])
    assert row.mean_prediction == pytest.approx(0.1)


def test_the_earliest_live_prediction_of_a_key_counts(world: World, live: ModelVersion) -> None:
    world.log(live, ["a"], [DAY], [0.1])
    world.log(live, ["a", "b"], [DAY, DAY], [0.9, 0.5])
    monitor(world.sessions, world.pipeline_id)
    row = days(world)[DAY.date()]
    assert (row.predictions, row.mean_prediction) == (2, pytest.approx(0.3))


def test_the_effective_label_wins_whatever_came_last(world: World, live: ModelVersion) -> None:
    request = world.log(live, ["a"], [DAY], [0.5])
    label(world, [("a", 1.0)], at=2)
    label(world, [((request, 0), 0.0)], at=1)
    label(world, [("a", 0.0)], rank=LabelSource.IMPLICIT, at=9)
    monitor(world.sessions, world.pipeline_id)
    assert days(world)[DAY.date()].mean_label == 1.0


def test_feedback_that_came_before_its_prediction_was_logged(world: World, live: ModelVersion) -> None:
    label(world, [("a", 1.0)])
    monitor(world.sessions, world.pipeline_id)
    assert days(world) == {}
    world.log(live, ["a"], [DAY], [0.5])
    monitor(world.sessions, world.pipeline_id)
    assert days(world)[DAY.date()].labelled == 1


def test_silence_is_a_negative_where_the_spec_says_so(sessions: Sessions, settings: ValidatorSettings) -> None:
    document = spec_document()
    document["label"]["if_missing"] = "negative"
    world = World.make(sessions, settings.artifacts_url, document)
    live = world.version()
    world.deploy(live)
    ahead = datetime.now(UTC) + timedelta(days=1)
    world.log(live, ["a", "b", "c"], [DAY, DAY, ahead], [0.2, 0.4, 0.6])
    label(world, [("a", 1.0)])
    monitor(sessions, world.pipeline_id)
    assert (days(world)[DAY.date()].labelled, days(world)[DAY.date()].mean_label) == (2, 0.5)
    assert days(world)[ahead.date()].labelled == 0


def test_a_day_is_counted_anew_once_its_silence_is_an_answer(sessions: Sessions, settings: ValidatorSettings) -> None:
    document = spec_document()
    document["label"]["if_missing"] = "negative"
    world = World.make(sessions, settings.artifacts_url, document)
    live = world.version()
    world.deploy(live)
    world.log(live, ["a", "b"], [DAY, DAY], [0.2, 0.4])
    label(world, [("a", 1.0)])
    monitor(sessions, world.pipeline_id)
    with sessions.begin() as session:  # as it stood on the day itself: one label, and silence that meant nothing yet
        row = session.get_one(MonitoringDay, (world.pipeline_id, DAY.date()))
        row.labelled, row.mean_label, row.computed_at = 1, 1.0, DAY + timedelta(hours=6)
    world.log(live, ["c"], [DAY + timedelta(days=5)], [0.6])
    assert monitor(sessions, world.pipeline_id) == 2
    assert (days(world)[DAY.date()].labelled, days(world)[DAY.date()].mean_label) == (2, 0.5)
    world.log(live, ["d"], [DAY + timedelta(days=5)], [0.6])
    assert monitor(sessions, world.pipeline_id) == 1, "once"


def test_regression_reports_rmse(sessions: Sessions, settings: ValidatorSettings) -> None:
    world = World.make(sessions, settings.artifacts_url, spec_document("regression"))
    live = world.version()
    world.deploy(live)
    world.log(live, ["a", "b"], [DAY, DAY], [10.0, 20.0])
    label(world, [("a", 13.0), ("b", 16.0)])
    monitor(sessions, world.pipeline_id)
    row = days(world)[DAY.date()]
    assert row.loss == pytest.approx((12.5) ** 0.5)
    assert row.auc is None


def test_two_workers_do_not_meet(world: World, live: ModelVersion) -> None:
    world.log(live, ["a"], [DAY], [0.5])
    done: list[int] = []
    workers = [
        threading.Thread(target=lambda: done.append(monitor(world.sessions, world.pipeline_id))) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(done) == [0, 0, 1]


def test_housekeeping_nudges_news_once_and_shows_the_newest_day(world: World, live: ModelVersion) -> None:
    housekeeper = Housekeeper(world.sessions, every_s=60, webhook=False)

    def nudges() -> int:
        with world.sessions.begin() as session:
            return len(session.scalars(select(OutboxMessage).where(col(OutboxMessage.task) == TaskName.MONITOR)).all())

    housekeeper.look()
    assert nudges() == 0
    request = world.log(live, ["a", "b"], [DAY, DAY], [0.25, 0.75])
    housekeeper.look()
    housekeeper.look()
    assert nudges() == 1
    monitor(world.sessions, world.pipeline_id)
    label(world, [((request, 0), 0.0), ("b", 1.0)])
    housekeeper.look()
    assert nudges() == 2
    monitor(world.sessions, world.pipeline_id)
    housekeeper.look()
    assert nudges() == 2

    def gauge(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"relevo_validator_{name}", {"pipeline": "flights"})

    assert gauge("live_version") == live.number
    assert gauge("prediction_bias") == pytest.approx(0.2)
    assert gauge("auc") == 1.0
    assert gauge("day_timestamp_seconds") == DAY.timestamp()
    assert gauge("model_age_seconds") == timedelta(days=5).total_seconds()
    assert gauge("live_as_of_timestamp_seconds") == live.as_of.timestamp()
    world.log(live, ["c"], [DAY + timedelta(days=1)], [0.5])
    monitor(world.sessions, world.pipeline_id)
    housekeeper.look()
    assert gauge("auc") is None  # the newest day has no labels yet
