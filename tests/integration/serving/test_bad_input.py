"""No input produces a 5xx, and nothing of a refused request is logged."""

import json
from typing import Any

import httpx
import pytest

from tests.integration.serving.conftest import Replica, bearer, flight, until
from tests.integration.serving.registry import PREDICT_KEY, READ_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

GOOD = json.dumps(flight())


def body(instance: str = GOOD, rest: str = "") -> bytes:
    return f'{{"instances": [{instance}]{rest}}}'.encode()


def field(name: str, value: str) -> bytes:
    """A good instance but for one field, given as raw JSON."""
    entries = {**{key: json.dumps(given) for key, given in flight().items()}, name: value}
    return body("{" + ", ".join(f'"{key}": {given}' for key, given in entries.items()) + "}")


PREDICT: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "not json": (b"instances=1", 400),
    "cut short": (body()[:-3], 400),
    "not utf-8": (b'{"instances": [{"flight": "\xff"}]}', 400),
    "NaN": (field("distance", "NaN"), 400),
    "Infinity": (field("distance", "-Infinity"), 400),
    "1e400": (field("distance", "1e400"), 400),
    "lone surrogate": (field("carrier", r'"\ud800"'), 400),
    "deep nesting": (b'{"instances": [' + b"[" * 5000 + b"]" * 5000 + b"]}", 400),
    "nested beyond use": (b'{"instances": [{"flight": ' + b"[" * 100 + b"]" * 100 + b"}]}", 400),
    "NUL in a value": (field("carrier", r'"\u0000"'), 422),
    "NUL in a key": (field("flight", r'"a\u0000b"'), 422),
    "NUL in a field name": (field(r"a\u0000", "1"), 422),
    "huge integer as number": (field("distance", "9" * 400), 400),
    "huge integer as time": (field("departs", "9" * 30), 422),
    "text as number": (field("distance", '"far"'), 422),
    "true as number": (field("distance", "true"), 422),
    "number as text": (field("carrier", "7"), 422),
    "long text": (field("carrier", json.dumps("x" * 5000)), 422),
    "list as column": (field("note", "[]"), 422),
    "time without offset": (field("departs", '"2013-06-02T12:00:00"'), 422),
    "time as fraction": (field("departs", "1.5"), 422),
    "no time": (field("departs", "null"), 422),
    "no key": (field("flight", "null"), 422),
    "empty key": (field("flight", '""'), 422),
    "available later than now": (field("available_at", '"2090-01-01T00:00:00Z"'), 422),
    "unknown field": (field("late", "1"), 422),
    "no instances": (b"{}", 422),
    "empty instances": (b'{"instances": []}', 422),
    "instances no list": (b'{"instances": {}}', 422),
    "instance no object": (b'{"instances": [7]}', 422),
    "a list": (b"[]", 422),
    "unknown envelope field": (body(rest=', "rows": 1'), 422),
    "version of another type": (body(rest=', "version": "1"'), 422),
    "version too large": (body(rest=', "version": 99999999999'), 422),
    "version that is none": (body(rest=', "version": 7'), 404),
    "model that is none": (body(rest=', "model": "nobody"'), 404),
    "model no text": (body(rest=', "model": []'), 422),
    "one bad row of many": (f'{{"instances": [{GOOD}, {GOOD}, {{}}]}}'.encode(), 422),
}


@pytest.fixture
async def deployed(registry: Registry, replica: Replica) -> Replica:
    """A replica with one live model."""
    registry.pipeline()
    registry.version(tiny_model(0.25))
    assert (await replica.promote(1)).status_code == 200
    return replica


def assert_problem(answer: httpx.Response, status: int, name: str = "") -> dict[str, Any]:
    assert answer.status_code == status, f"{name}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json", name
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "request_id"} <= problem.keys(), name
    return problem


async def test_bad_predictions_are_refused_with_a_problem_and_not_logged(deployed: Replica) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/predict", "/v1/models/delays/predict"):
        for name, (content, status) in PREDICT.items():
            expected = 422 if path != "/predict" and "model" in name else status
            assert_problem(
                await deployed.client.post(path, content=content, headers=headers), expected, f"{path}: {name}"
            )
    good = await deployed.client.post("/predict", content=body(), headers=headers)
    assert good.status_code == 200
    assert len(await deployed.shipped(1)) == 1


async def test_the_problem_says_where_and_what(deployed: Replica) -> None:
    problem = assert_problem(await deployed.predict(flight(), flight(distance="far", carier="AA")), 422)
    assert problem["errors"] == [
        {"loc": ["body", "instances", 1, "distance"], "msg": "must be a number"},
        {"loc": ["body", "instances", 1, "carier"], "msg": "is no field of this pipeline"},
    ]
    assert problem["detail"] == "Nothing was predicted: instances.1.distance must be a number (and 1 more)."


async def test_too_many_and_too_large(deployed: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    many = await deployed.predict(*[{}] * 10_001)
    assert "1 to 10000" in assert_problem(many, 422)["errors"][0]["msg"]
    huge = await deployed.client.post(
        "/predict", content=b" " * (8 * 2**20 + 1), headers={"content-type": "application/json"}
    )
    assert_problem(huge, 413)


async def test_ten_thousand_rows_are_answered(deployed: Replica) -> None:
    answer = await deployed.predict(*(flight(number) for number in range(10_000)))
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 10_000
    assert len(await deployed.shipped(10_000)) == 10_000


async def test_another_content_type_is_refused(deployed: Replica) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await deployed.client.post("/predict", content=body(), headers={"content-type": content_type})
        assert_problem(answer, 415)


async def test_keys_and_scopes(deployed: Replica) -> None:
    client = deployed.client
    for headers in ({"Authorization": ""}, bearer("rlv_dddddddddddd_" + "d" * 43), {"Authorization": "Basic abc"}):
        assert_problem(await client.post("/predict", content=b"not even json", headers=headers), 401)
    assert_problem(await client.post("/predict", json={"instances": [flight()]}, headers=bearer(READ_KEY)), 403)
    pinned = {"instances": [flight()], "version": 1}
    assert_problem(await client.post("/predict", json=pinned, headers=bearer(PREDICT_KEY)), 403)
    assert (await client.post("/predict", json=pinned)).status_code == 200
    for path, order in (("promote", {"version": 1}), ("rollback", {"reason": "x"})):
        url = f"/admin/models/delays/{path}"
        assert_problem(await client.post(url, json=order, headers=bearer(READ_KEY)), 403)
    assert_problem(await client.get("/admin/models/delays", headers=bearer(PREDICT_KEY)), 403)


ORDERS: dict[str, tuple[str, bytes, int]] = {
    "promote: no version": ("promote", b"{}", 422),
    "promote: unknown version": ("promote", b'{"version": 99}', 404),
    "promote: version no number": ("promote", b'{"version": "one"}', 422),
    "promote: version 0": ("promote", b'{"version": 0}', 422),
    "promote: huge version": ("promote", b'{"version": 99999999999999999999999}', 422),
    "promote: unknown field": ("promote", b'{"version": 1, "force": true}', 422),
    "promote: empty override": ("promote", b'{"version": 1, "override": ""}', 422),
    "promote: NUL": ("promote", b'{"version": 1, "reason": "\\u0000"}', 422),
    "promote: validation no id": ("promote", b'{"version": 1, "validation": "x"}', 422),
    "promote: negative generation": ("promote", b'{"version": 1, "expected_generation": -1}', 422),
    "promote: not json": ("promote", b"version=1", 400),
    "rollback: no reason": ("rollback", b"{}", 422),
    "rollback: NaN": ("rollback", b'{"reason": NaN}', 400),
}


async def test_bad_orders_are_refused(deployed: Replica) -> None:
    for name, (path, content, status) in ORDERS.items():
        answer = await deployed.client.post(
            f"/admin/models/delays/{path}", content=content, headers={"content-type": "application/json"}
        )
        assert_problem(answer, status, name)
    unknown = "00000000-0000-7000-8000-000000000000"
    assert_problem(await deployed.promote(1, "nobody"), 404)
    assert_problem(await deployed.roll_back("nobody"), 404)
    assert_problem(await deployed.client.get("/admin/models/nobody"), 404)
    assert_problem(await deployed.client.get("/admin/models/nobody/history"), 404)
    assert_problem(await deployed.client.get("/admin/models/delays/history?at=yesterday"), 422)
    assert_problem(await deployed.client.get("/admin/models/UPPER%20CASE"), 422)
    other = (await deployed.promote(1, validation=unknown)).json()
    assert other["changed"] is False, "it is live already"


async def test_which_model_is_meant(registry: Registry, replica: Replica) -> None:
    assert_problem(await replica.predict(), 404)
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await until(lambda: "delays" in replica.serving.follower.catalogue.pipelines, "the pipeline is known")
    assert "deployed yet" in assert_problem(await replica.predict(), 404)["detail"]
    assert "deployed yet" in assert_problem(await replica.predict(model="delays"), 404)["detail"]
    await replica.promote(1)
    registry.pipeline("other")
    registry.version(tiny_model(0.5), "other")
    assert (await replica.predict()).json()["model"] == "delays", "one is deployed"
    await replica.promote(1, "other")
    problem = assert_problem(await replica.predict(), 422)
    assert problem["errors"] == [{"loc": ["body", "model"], "msg": "is required: delays, other are deployed"}]
    assert (await replica.predict(model="other")).json()["predictions"][0]["score"] == 0.625
    answer = await replica.client.post("/v1/models/other/predict", json={"instances": [flight()]})
    assert answer.json()["model"] == "other"


async def test_every_route_is_documented_with_its_bodies(replica: Replica) -> None:
    document = (await replica.client.get("/openapi.json")).json()
    for path in ("/predict", "/v1/models/{p}/predict", "/feedback"):
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema.get("properties") or schema.get("items")
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]
