"""Feedback: early, late, repeated, corrected, forged. Each item gets its verdict; one never stops the others."""

import itertools
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from shared.ids import new_id
from shared.labels import EFFECTIVE_ORDER
from shared.prediction_ids import PredictionIds
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import Replica, bearer, flight, until
from tests.integration.serving.registry import PREDICT_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model


@pytest.fixture
async def deployed(registry: Registry, replica: Replica) -> Replica:
    """A replica with one live model."""
    registry.pipeline()
    registry.version(tiny_model(0.25))
    assert (await replica.promote(1)).status_code == 200
    return replica


async def send(replica: Replica, *items: Any) -> dict[str, Any]:
    answer = await replica.client.post("/feedback", json=list(items))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def labels(replica: Replica) -> list[Any]:
    with replica.sessions.begin() as session:
        return list(session.execute(text("select * from labels order by seq")))


async def predicted(replica: Replica, *instances: dict[str, Any]) -> list[str]:
    return [row["prediction_id"] for row in (await replica.predict(*instances)).json()["predictions"]]


async def test_by_prediction_id_and_by_key(deployed: Replica) -> None:
    first, second = await predicted(deployed, flight(1), flight(2))
    report = await send(
        deployed,
        {"prediction_id": first, "label": 1},
        {"prediction_id": second, "label": False, "time": "2013-06-02T20:00:00Z", "source": "implicit"},
        {"key": "AA-3", "label": 0, "available_at": "2013-06-03T00:00:00Z"},
    )
    assert report == {
        "results": [{"index": index, "status": "accepted"} for index in range(3)], "accepted": 3, "duplicates": 0, "rejected": 0,
    }  # fmt: skip
    rows = labels(deployed)
    assert sorted((row.key, row.row_index, row.label, row.source) for row in rows if row.key is None) == [
        (None, 0, 1.0, "explicit"), (None, 1, 0.0, "implicit"),
    ]  # fmt: skip
    (keyed,) = [row for row in rows if row.key]
    assert keyed.label_time == keyed.available_at
    assert keyed.available_at.isoformat() == "2013-06-03T00:00:00+00:00"


async def test_repeated_feedback_is_a_duplicate_and_a_correction_is_not(deployed: Replica) -> None:
    (prediction,) = await predicted(deployed, flight(1))
    item = {"prediction_id": prediction, "label": 1}
    assert (await send(deployed, item, item))["results"] == [
        {"index": 0, "status": "accepted"}, {"index": 1, "status": "duplicate"},
    ]  # fmt: skip
    assert (await send(deployed, item))["duplicates"] == 1
    assert (await send(deployed, {**item, "label": 0}))["accepted"] == 1
    assert (await send(deployed, item))["accepted"] == 1, "corrected back"


async def test_early_feedback_is_taken_before_the_prediction_is_in_the_registry(deployed: Replica) -> None:
    request = new_id()
    early = PredictionIds(PREDICTION_SECRET).make("delays", request, 0)
    assert (await send(deployed, {"prediction_id": early, "label": 1}))["accepted"] == 1
    (row,) = labels(deployed)
    assert (row.request_id, row.row_index) == (request, 0)


async def test_the_effective_label_does_not_depend_on_the_order(registry: Registry, replica: Replica) -> None:
    statements = [
        {"label": 0, "source": "implicit", "time": "2013-06-05T00:00:00Z"},
        {"label": 1, "source": "explicit", "time": "2013-06-03T00:00:00Z"},
        {"label": 0, "source": "explicit", "time": "2013-06-02T00:00:00Z"},
    ]
    registry.pipeline()
    await until(lambda: bool(replica.serving.follower.catalogue.pipelines), "the pipeline is known")
    for number, order in enumerate(itertools.permutations(statements)):
        for statement in order:
            await send(replica, {"key": f"k{number}", **statement})
        with replica.sessions.begin() as session:
            query = text(f"select label from labels where key = :key order by {EFFECTIVE_ORDER} limit 1")
            assert session.execute(query, {"key": f"k{number}"}).scalar_one() == 1.0


BAD: dict[str, tuple[Any, str]] = {
    "no object": (3, "must be an object"),
    "nothing to point at": ({"label": 1}, "give either prediction_id or key"),
    "both": ({"key": "a", "prediction_id": "b", "label": 1}, "give either"),
    "no label": ({"key": "a"}, "label: is required"),
    "null label": ({"key": "a", "label": None}, "label: is required"),
    "text label": ({"key": "a", "label": "1"}, "label: must be a number"),
    "label of a binary task": ({"key": "a", "label": 0.5}, "label: must be 0 or 1"),
    "huge label": ({"key": "a", "label": 2**63}, "label: must be 0 or 1"),
    "empty key": ({"key": "", "label": 1}, "key: must have 1 to 256 characters"),
    "long key": ({"key": "k" * 257, "label": 1}, "key: must have 1 to 256 characters"),
    "number as key": ({"key": 7, "label": 1}, "key: must be a text"),
    "number as id": ({"prediction_id": 7, "label": 1}, "prediction_id: must be a text"),
    "no such model": ({"key": "a", "label": 1, "model": "nobody"}, "model: there is no pipeline"),
    "model of another type": ({"key": "a", "label": 1, "model": []}, "model: there is no pipeline"),
    "source": ({"key": "a", "label": 1, "source": "event"}, "source: must be explicit or implicit"),
    "source of another type": ({"key": "a", "label": 1, "source": {}}, "source: must be explicit or implicit"),
    "time without offset": ({"key": "a", "label": 1, "time": "2013-06-01T00:00:00"}, "time: must say its offset"),
    "time to come": ({"key": "a", "label": 1, "time": "2090-01-01T00:00:00Z"}, "time: must not be later than the receipt"),
    "time no number": ({"key": "a", "label": 1, "time": 1.5}, "time: must be a time"),
    "unknown field": ({"key": "a", "label": 1, "weight": 2}, "weight: is no field of feedback"),
}  # fmt: skip


async def test_a_wrong_item_is_told_why_and_stops_no_other(deployed: Replica) -> None:
    items = [item for item, _ in BAD.values()]
    report = await send(deployed, *items, {"key": "good", "label": 1})
    assert report["rejected"] == len(items)
    for (name, (_, reason)), verdict in zip(BAD.items(), report["results"], strict=False):
        assert verdict["status"] == "rejected", name
        assert reason in verdict["reason"], name
    assert report["results"][-1] == {"index": len(items), "status": "accepted"}
    assert [row.key for row in labels(deployed)] == ["good"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[]", 422),
        (b"{}", 422),
        (b"7", 422),
        (b"", 400),
        (b"[{]", 400),
        (b'[{"key":"a\\u0000","label":1}]', 422),
        (b"[NaN]", 400),
    ],
)
async def test_a_body_that_is_no_list_of_items(deployed: Replica, content: bytes, status: int) -> None:
    answer = await deployed.client.post("/feedback", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_several_pipelines_need_a_name_beside_a_key_and_none_beside_an_id(
    registry: Registry, deployed: Replica
) -> None:
    registry.pipeline("other")
    await until(lambda: "other" in deployed.serving.follower.catalogue.pipelines, "the second pipeline is known")
    (prediction,) = await predicted(deployed, flight(1))
    report = await send(
        deployed,
        {"key": "a", "label": 1},
        {"key": "a", "label": 1, "model": "other"},
        {"prediction_id": prediction, "label": 1},
        {"prediction_id": prediction, "label": 1, "model": "other"},
    )
    assert [verdict["status"] for verdict in report["results"]] == ["rejected", "accepted", "accepted", "rejected"]


async def test_without_the_scope_nothing_is_taken(deployed: Replica) -> None:
    answer: httpx.Response = await deployed.client.post(
        "/feedback", json=[{"key": "a", "label": 1}], headers=bearer(PREDICT_KEY)
    )
    assert answer.status_code == 403
    assert labels(deployed) == []
