"""A real model, end to end: deployed through the API, predicted over HTTP, logged, shipped."""

import asyncio
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import spox.opset.ai.onnx.v21 as op
from prometheus_client import REGISTRY
from spox import Tensor, argument

from services.serving.prediction_log import record
from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import Replica, bearer, flight, running, sample, until
from tests.integration.serving.registry import PREDICT_KEY, Registry
from tests.unit.serving.tiny_model import SPEC, finish, tiny_model


async def test_a_prediction_is_answered_logged_and_shipped(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25, weight=0.5))
    assert (await replica.promote(1)).json() == {
        "model": "delays", "live_version": 1, "generation": 1, "previous_version": None, "canary": None, "shadow": None,
        "changed": True, "applied": True,
    }  # fmt: skip
    before = sample("relevo_serving_predictions_total", model="delays", version="1", role="live")

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
    assert sample("relevo_serving_predictions_total", model="delays", version="1", role="live") == before + 3


async def test_versions_that_were_let_go_leave_the_metrics(registry: Registry, replica: Replica) -> None:
    """Each release brings a version: what is neither live nor the one to roll back to is counted no more."""
    registry.pipeline()
    for number in range(1, 6):
        registry.version(tiny_model(number / 8))
        await replica.promote(number)
        assert (await replica.predict(flight(number))).status_code == 200
        assert counted("relevo_serving_predictions_total", number) is not None

    async def gone() -> bool:
        series = [f"relevo_serving_{name}" for name in ("predictions_total", "predictions_created", "score_sum")]
        return all(counted(name, number) is None for name in series for number in (1, 2, 3))

    await until(gone, "the series of the first three are gone")
    assert all(counted("relevo_serving_predictions_total", number) is not None for number in (4, 5))


def counted(series: str, version: int) -> float | None:
    return REGISTRY.get_sample_value(series, {"model": "delays", "version": str(version), "role": "live"})


async def test_a_key_with_the_predict_scope_is_enough(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    answer = await replica.client.post("/predict", json={"instances": [flight()]}, headers=bearer(PREDICT_KEY))
    assert answer.status_code == 200


async def test_what_a_new_spec_adds_is_taken_and_logged_before_its_model_is_live(
    registry: Registry, replica: Replica
) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    richer = flight(1, temp=20.5, seat="12A")
    assert (await replica.predict(richer)).status_code == 422
    registry.respec(columns=["note", "seat"], features={**SPEC["features"], "temp": {"type": "number"}})

    async def taken() -> bool:
        return (await replica.predict(richer)).status_code == 200

    await until(taken, "the new spec is known")
    assert (await replica.predict(flight(2))).status_code == 200, "the old fields still do"
    first, *_ = await replica.shipped(2)
    assert first.instance == {"carrier": "AA", "distance": 500.0, "temp": 20.5, "seat": "12A"}


async def test_a_named_version_is_logged_as_pinned(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    for base in (0.125, 0.25, 0.5):
        registry.version(tiny_model(base))
    await replica.promote(2)
    answer = await replica.predict(flight(carrier="UA"), version=3)
    assert (answer.json()["model_version"], answer.json()["predictions"][0]["score"]) == (3, 0.5)
    (row,) = await replica.shipped(1)
    assert (row.version_number, row.pinned, row.generation) == (3, True, 1)
    broken = registry.version(b"damaged")
    await until(lambda: broken in replica.serving.follower.pipeline("delays").versions, "the version is known")
    refused = await replica.predict(version=broken)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:relevo:problem:not-loadable")


async def test_without_strictness_a_full_log_is_counted_and_not_refused(
    registry: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_LOG_STRICT", "false")
    monkeypatch.setenv("SERVING_SPOOL_LIMIT_BYTES", "10")
    registry.pipeline()
    registry.version(tiny_model(0.25))
    async with running(sessions) as replica:
        await replica.promote(1)
        before = sample("relevo_serving_log_dropped_total")
        assert (await replica.predict(flight(1), flight(2))).status_code == 200
        assert sample("relevo_serving_log_dropped_total") == before + 2


async def test_a_request_too_large_for_the_registry_is_told_to_send_fewer(
    registry: Registry, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    monkeypatch.setattr(record, "MAX_DOCUMENT_BYTES", 4000)
    refused = await replica.predict(*map(flight, range(40)))
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:relevo:problem:too-large")
    (fewer,) = map(int, re.findall(r"Send fewer instances a request: (\d+) or less", refused.json()["detail"]))
    assert 10 < fewer < 40
    alone = await replica.predict(flight(carrier="A" * 4000))
    assert alone.json()["detail"].endswith("Shorten its values.")
    assert (await replica.predict(*map(flight, range(10)))).status_code == 200
    assert len(await replica.shipped(10)) == 10


async def test_a_score_that_is_not_finite_is_no_answer(registry: Registry, replica: Replica) -> None:
    x, departs = argument(Tensor(np.float32, ("n",))), argument(Tensor(np.int64, ("n",)))
    carrier = argument(Tensor(np.str_, ("n",)))
    large = op.greater(x, op.const(np.float32(1e6)))
    score = op.where(large, op.const(np.float32(np.nan)), op.const(np.float32(0.5)))
    score = op.add(score, op.mul(op.cast(departs, to=np.float32), op.const(np.float32(0))))
    other = op.mul(op.cast(op.equal(carrier, op.const(np.array("AA"))), to=np.float32), op.const(np.float32(0)))
    registry.pipeline()
    registry.version(finish({"carrier": carrier, "distance": x, "departs": departs}, op.add(score, other)))
    assert (await replica.promote(1)).status_code == 200
    assert (await replica.predict(flight(1))).status_code == 200
    answer = await replica.predict(flight(2), flight(3, distance=1e7))
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"loc": ["body", "instances", 1], "msg": "version 1 gives no finite score for this row"}
    ]
    assert len(await replica.shipped(1)) == 1


async def test_the_metrics_tell_what_serves_and_how_far_the_log_is(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    await replica.predict(flight(1, carrier="UA"))
    await replica.shipped(1)
    text = (await replica.client.get("/metrics")).text
    for line in (
        'relevo_serving_live_version{model="delays"} 1.0',
        'relevo_serving_generation{model="delays"} 1.0',
        'relevo_serving_train_label_mean{model="delays"} 0.25',
    ):
        assert line in text
    for name in ("spool_bytes", "ship_lag_seconds", "log_append_seconds_bucket", "request_seconds_bucket", "score_sum"):
        assert f"relevo_serving_{name}" in text


async def test_more_than_can_be_scored_is_told_to_come_back(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    many = [flight(row) for row in range(100)]
    replica.serving.settings.most_waiting_rows = 150
    answers = await asyncio.gather(*(replica.predict(*many) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"]
    assert (await replica.predict(*many)).status_code == 200, "once there is room again"
    taken = sum(answer.status_code == 200 for answer in answers) + 1
    assert len(await replica.shipped(taken * 100)) == taken * 100
