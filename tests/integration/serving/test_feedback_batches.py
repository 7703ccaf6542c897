"""A batch of feedback: its limits, what it may hold, and sending it again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from shared.ids import new_id
from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import Replica, running, sample, until
from tests.integration.serving.registry import Registry
from tests.integration.serving.test_feedback_ids import statements

IDS = PredictionIds(PREDICTION_SECRET)


@pytest.fixture
async def two(registry: Registry, replica: Replica) -> Replica:
    """A replica of a registry with a binary and a regression pipeline."""
    registry.pipeline()
    registry.pipeline("minutes", task="regression")
    await until(lambda: len(replica.serving.follower.catalogue.pipelines) == 2, "the pipelines are known")
    return replica


async def statuses(replica: Replica, items: list[Any]) -> list[str]:
    answer = await replica.client.post("/feedback", json=items)
    assert answer.status_code == 200, answer.text
    return [verdict["status"] for verdict in answer.json()["results"]]


def stored(sessions: Sessions) -> list[Any]:
    with sessions.begin() as session:
        query = "select p.name, l.key, l.label from labels l join pipelines p on p.id = l.pipeline_id order by l.label_time, l.seq"
        return [tuple(row) for row in session.execute(text(query))]


def mixed() -> list[Any]:
    """Good and bad items of two pipelines, by id and by key, with repetitions and corrections."""
    late, minutes = (IDS.make(name, new_id(), 0) for name in ("delays", "minutes"))
    return [
        {"prediction_id": late, "label": 1},
        {"prediction_id": minutes, "label": 12.5},
        {"prediction_id": late, "label": 0.5},  # of another task
        {"prediction_id": minutes, "label": True},  # a correction
        {"prediction_id": late, "label": True},
        {"prediction_id": late, "key": "a", "label": 1},
        {"key": "a", "label": 1, "model": "delays", "time": "2026-01-01T00:00:00Z"},
        {"key": "a", "label": 1, "model": "delays", "time": "2026-01-01T01:00:00+01:00"},  # the same moment
        {"key": "a", "label": 1, "model": "minutes", "time": "2026-01-01T00:00:00Z"},
        {"key": "a", "label": 0, "model": "delays", "time": "2026-01-01T00:00:00Z"},
        {"key": "a", "label": 1},
        None,
    ]


VERDICTS = [
    "accepted", "accepted", "rejected", "accepted", "duplicate", "rejected", "accepted", "duplicate", "accepted", "accepted",
    "rejected", "rejected",
]  # fmt: skip


async def test_good_and_bad_items_and_the_whole_batch_again(two: Replica) -> None:
    batch = mixed()
    before = {status: sample("relevo_serving_feedback_total", status=status) for status in set(VERDICTS)}
    assert await statuses(two, batch) == VERDICTS
    after = stored(two.sessions)
    assert len(after) == VERDICTS.count("accepted")
    again = ["duplicate" if status == "accepted" else status for status in VERDICTS]
    for _ in range(2):
        assert await statuses(two, batch) == again
        assert stored(two.sessions) == after
    for status, count in before.items():
        told = VERDICTS.count(status) + 2 * again.count(status)
        assert sample("relevo_serving_feedback_total", status=status) == count + told


async def test_a_clock_that_runs_ahead_changes_neither_order_nor_repetition(two: Replica) -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=2)
    first, second = (
        {"key": "a", "model": "delays", "label": label, "time": (ahead + timedelta(seconds=label)).isoformat()}
        for label in (0, 1)
    )
    assert await statuses(two, [second]) == ["accepted"]
    assert await statuses(two, [first]) == ["accepted"]
    assert await statuses(two, [second, first]) == ["duplicate", "duplicate"]
    assert stored(two.sessions) == [("delays", "a", 0.0), ("delays", "a", 1.0)]
    # Who does not say when speaks last.
    assert await statuses(two, [{"key": "a", "model": "delays", "label": 0}]) == ["accepted"]
    assert stored(two.sessions)[-1] == ("delays", "a", 0.0)
    with two.sessions.begin() as session:
        assert session.scalar(text("select bool_and(available_at <= received_at) from labels"))


async def test_labels_of_each_task(two: Replica) -> None:
    said = [(value, name) for value in (0, 1, True, 0.5, -3, 1e308, "1", None, [1]) for name in ("delays", "minutes")]
    items = [{"key": f"k{number}", "label": value, "model": name} for number, (value, name) in enumerate(said)]
    answer = (await two.client.post("/feedback", json=items)).json()
    taken = {
        (repr(value)[:5], name)
        for (value, name), verdict in zip(said, answer["results"], strict=True)
        if verdict["status"] == "accepted"
    }
    both = {(value, name) for value in ("0", "1", "True") for name in ("delays", "minutes")}
    assert taken == both | {(value, "minutes") for value in ("0.5", "-3", "1e+30")}
    assert all(verdict["reason"].startswith("label: ") for verdict in answer["results"] if "reason" in verdict)


async def test_the_delay_of_new_labels_by_id_is_measured(two: Replica) -> None:
    name, labels = "relevo_serving_feedback_delay_seconds", {"model": "delays"}
    count, total = (sample(f"{name}_{part}", **labels) for part in ("count", "sum"))
    now = datetime.now(UTC)
    prediction = IDS.make("delays", new_id(now - timedelta(days=2)), 0)
    items = [
        {"prediction_id": prediction, "label": 1, "time": (now - timedelta(days=1)).isoformat()},
        {"prediction_id": prediction, "label": 1, "time": (now - timedelta(days=1)).isoformat()},  # not new
        {"prediction_id": prediction, "label": 1, "time": "2013-01-01T00:00:00Z"},  # of a replay
        {"key": "a", "label": 1, "model": "delays"},
    ]
    assert await statuses(two, items) == ["accepted", "duplicate", "accepted", "accepted"]
    assert sample(f"{name}_count", **labels) == count + 1
    assert sample(f"{name}_sum", **labels) == pytest.approx(total + 86_400, abs=0.01)


async def test_a_batch_takes_as_many_statements_as_an_item(two: Replica) -> None:
    asked: list[list[str]] = []
    for count in (1, 500):
        request = new_id().hex
        items: list[dict[str, Any]] = [
            {"prediction_id": each, "label": 1} for each in IDS.make_batch("delays", request, count)
        ]
        items += [{"key": f"{count}-{number}", "model": "delays", "label": 1} for number in range(count)]
        with statements(two) as heard:
            assert await statuses(two, items) == ["accepted"] * 2 * count
        asked.append(heard)
    assert asked[0] == asked[1]


async def test_a_batch_has_a_limit(registry: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_MAX_INSTANCES", "5")
    registry.pipeline()
    async with running(sessions) as replica:
        await until(lambda: bool(replica.serving.follower.catalogue.pipelines), "the pipeline is known")
        items = [{"key": f"k{number}", "label": 1} for number in range(6)]
        answer = await replica.client.post("/feedback", json=items)
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"loc": ["body"], "msg": "must be a list of 1 to 5 items"}]
        assert stored(sessions) == []
        assert await statuses(replica, items[:5]) == ["accepted"] * 5
