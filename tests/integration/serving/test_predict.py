"""A real model, end to end: deployed through the API, predicted over HTTP, logged, shipped."""

from datetime import UTC, datetime

import pytest

from shared.prediction_ids import PredictionIds
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import Replica, bearer, flight, sample
from tests.integration.serving.registry import PREDICT_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model


async def test_a_prediction_is_answered_logged_and_shipped(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25, weight=0.5))
    assert (await replica.promote(1)).json() == {
        "model": "delays", "live_version": 1, "generation": 1, "previous_version": None, "changed": True, "applied": True,
    }  # fmt: skip
    before = sample("relevo_serving_predictions_total", model="delays", version="1", pinned="false")

    answer = await replica.predict(
        flight(1, note="window", available_at="2013-06-02T10:00:00Z"),
        flight(2, carrier=None, distance=None),
        flight(3, carrier="UA"),
    )

    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["model_version"]) == ("delays", 1)
    assert [row["key"] for row in body["predictions"]] == ["AA-1", "AA-2", "AA-3"]
    assert [row["score"] for row in body["predictions"]] == pytest.approx([0.625, 0.25, 0.5])
    rows = await replica.shipped(3)
    ids = PredictionIds(PREDICTION_SECRET)
    assert [ids.make("delays", row.request_id, row.row_index) for row in rows] == [
        p["prediction_id"] for p in body["predictions"]
    ]
    assert [row.score for row in rows] == [p["score"] for p in body["predictions"]]
    assert [row.instance for row in rows] == [
        {"carrier": "AA", "distance": 500.0, "note": "window"}, {}, {"carrier": "UA", "distance": 500.0},
    ]  # fmt: skip
    assert {(row.version_number, row.generation, row.pinned) for row in rows} == {(1, 1, False)}
    assert rows[0].event_time == datetime(2013, 6, 2, 16, tzinfo=UTC)
    assert rows[0].available_at == datetime(2013, 6, 2, 10, tzinfo=UTC)
    assert rows[1].available_at == rows[1].requested_at
    assert sample("relevo_serving_predictions_total", model="delays", version="1", pinned="false") == before + 3


async def test_a_key_with_the_predict_scope_is_enough(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    answer = await replica.client.post("/predict", json={"instances": [flight()]}, headers=bearer(PREDICT_KEY))
    assert answer.status_code == 200
