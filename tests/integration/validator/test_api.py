"""The validator's endpoints over a real registry: what they give, and what they refuse with which words."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from services.validator.app import create_app
from services.validator.config import ValidatorSettings
from services.validator.validate import validate
from services.validator.watch import monitor
from shared.contracts.scopes import ADMIN, Scope
from shared.contracts.tasks import TaskName
from shared.keys import ensure_key, generate
from shared.registry.session import Sessions
from shared.registry.tables import OutboxMessage, Validation
from tests.integration.validator.world import World, spec_document

ADMIN_KEY, READER_KEY, OTHER_KEY = generate(), generate(), generate()
BASE = "/v1/pipelines/flights"


@pytest.fixture
def world(sessions: Sessions, settings: ValidatorSettings) -> World:
    return World.make(sessions, settings.artifacts_url, spec_document(approval="manual"))


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    with world.sessions.begin() as session:
        ensure_key(session, ADMIN_KEY, "ana", ADMIN)
        ensure_key(session, READER_KEY, "reader", {Scope.READ})
        ensure_key(session, OTHER_KEY, "other", ADMIN)
        session.execute(
            text("update api_keys set pipelines = array['elsewhere'] where id = :id"), {"id": OTHER_KEY.split("_")[1]}
        )
    app = create_app()
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://validator", headers=headers) as opened,
    ):
        yield opened


def as_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(client: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await client.post(f"{BASE}/validations", json=body, headers=headers)


async def test_ask_and_look(client: httpx.AsyncClient, world: World, settings: ValidatorSettings) -> None:
    candidate, cycle = world.version(), world.cycle()
    answer = await ask(client, {"candidate": candidate.number, "cycle": str(cycle)})
    assert answer.status_code == 202
    asked = answer.json()
    assert (asked["state"], asked["candidate"], asked["cycle"]) == ("queued", 1, str(cycle))
    assert (asked["pipeline"], asked["decision"], asked["baseline"], asked["report"]) == ("flights", None, None, {})
    with world.sessions.begin() as session:
        (nudge,) = session.scalars(select(OutboxMessage))
    assert (nudge.task, str(nudge.row_id)) == (TaskName.VALIDATE, asked["id"])

    validate(world.sessions, world.store, settings, uuid.UUID(asked["id"]))
    judged = (await client.get(f"{BASE}/validations/{asked['id']}")).json()
    assert (judged["state"], judged["decision"]) == ("passed", "hold")
    assert judged["report"]["candidate"]["auc"] > 0.7
    assert judged["sentence"].startswith("The first model is sane")

    listed = (await client.get(f"{BASE}/validations", headers=as_key(READER_KEY))).json()
    assert [item["id"] for item in listed["items"]] == [asked["id"]]
    assert "report" not in listed["items"][0]


async def test_the_same_idempotency_key_asks_once(client: httpx.AsyncClient, world: World) -> None:
    candidate = world.version()
    first, second = [await ask(client, {"candidate": candidate.number}, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert first.json() == second.json()
    assert (first.status_code, second.status_code) == (202, 202)
    with world.sessions.begin() as session:
        assert len(session.scalars(select(Validation)).all()) == 1


async def test_pages(client: httpx.AsyncClient, world: World) -> None:
    candidate = world.version()
    ids = [(await ask(client, {"candidate": candidate.number})).json()["id"] for _ in range(3)]
    first = (await client.get(f"{BASE}/validations", params={"limit": 2})).json()
    rest = (await client.get(f"{BASE}/validations", params={"limit": 2, "after": first["next"]})).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next"] is None


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, ["body", "candidate"]),
        ({"candidate": 99}, ["body", "candidate"]),
        ({"candidate": "1"}, ["body", "candidate"]),
        ({"candidate": 2**40}, ["body", "candidate"]),
        ({"candidate": 1, "baseline": 1}, ["body", "baseline"]),
        ({"candidate": 1, "baseline": 99}, ["body", "baseline"]),
        ({"candidate": 1, "cycle": str(uuid.uuid4())}, ["body", "cycle"]),
        ({"candidate": 1, "other": 1}, ["body", "other"]),
    ],
)
async def test_wrong_bodies(client: httpx.AsyncClient, world: World, body: dict[str, Any], loc: list[str]) -> None:
    world.version()
    answer = await ask(client, body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == loc


async def test_a_cycle_cannot_choose_its_baseline(client: httpx.AsyncClient, world: World) -> None:
    world.version()
    world.version()
    answer = await ask(client, {"candidate": 1, "baseline": 2, "cycle": str(world.cycle())})
    assert answer.status_code == 422


async def test_what_is_in_production_needs_a_named_baseline(client: httpx.AsyncClient, world: World) -> None:
    live, other = world.version(), world.version()
    world.deploy(live)
    answer = await ask(client, {"candidate": live.number})
    assert answer.status_code == 409
    assert "in production already" in answer.json()["detail"]
    assert (await ask(client, {"candidate": live.number, "baseline": other.number})).status_code == 202


@pytest.mark.parametrize("change", ["update versions set state = 'retired'", "update datasets set state = 'erased'"])
async def test_what_is_gone_cannot_be_judged(client: httpx.AsyncClient, world: World, change: str) -> None:
    world.version()
    with world.sessions.begin() as session:
        session.execute(text(change))
    assert (await ask(client, {"candidate": 1})).status_code == 409


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/pipelines/NOT%20A%20NAME/validations", 422),
        ("/v1/pipelines/flights%00/alerts", 422),
        (f"/v1/pipelines/{'x' * 300}/monitoring", 422),
        (f"{BASE}/validations?limit=0", 422),
        (f"{BASE}/validations?limit=99999999999999999999", 422),
        (f"{BASE}/validations?after=1", 422),
        (f"{BASE}/validations/1", 422),
        (f"{BASE}/validations/{uuid.uuid4()}", 404),
        (f"{BASE}/alerts?after=%00", 422),
        (f"{BASE}/monitoring?from=%00", 422),
        (f"{BASE}/monitoring?to=99999999999999999999", 422),
    ],
)
async def test_wrong_addresses_are_problems(client: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"candidate": NaN}', b'{"candidate": 1e999}', b"\xff"])
async def test_wrong_json_is_a_problem(client: httpx.AsyncClient, body: bytes) -> None:
    for path in ("validations", f"validations/{uuid.uuid4()}/approve"):
        answer = await client.post(f"{BASE}/{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)


async def test_scopes_and_pipelines(client: httpx.AsyncClient, world: World) -> None:
    world.version()
    assert (await ask(client, {"candidate": 1}, **as_key(READER_KEY))).status_code == 403
    for path in ("validations", "alerts", "monitoring"):
        assert (await client.get(f"{BASE}/{path}", headers=as_key(OTHER_KEY))).status_code == 404
        assert (await client.get(f"{BASE}/{path}", headers={"Authorization": "Bearer nonsense"})).status_code == 401
        assert (await client.get(f"/v1/pipelines/unknown/{path}")).status_code == 404


async def test_approve_and_reject(client: httpx.AsyncClient, world: World, settings: ValidatorSettings) -> None:
    world.version()
    asked = (await ask(client, {"candidate": 1})).json()["id"]
    path = f"{BASE}/validations/{asked}"
    body = {"reason": "looks right"}
    early = await client.post(f"{path}/approve", json=body)
    assert (early.status_code, "queued" in early.json()["detail"]) == (409, True)
    validate(world.sessions, world.store, settings, uuid.UUID(asked))
    assert (await client.post(f"{path}/approve", json={})).status_code == 422
    assert (await client.post(f"{path}/approve", json=body, headers=as_key(READER_KEY))).status_code == 403
    approved = (await client.post(f"{path}/approve", json=body)).json()
    assert (approved["decision"], approved["release_state"], approved["decided_by"]) == ("promote", "pending", "ana")
    assert (await client.post(f"{path}/reject", json=body)).status_code == 409
    assert (await client.post(f"{BASE}/validations/{uuid.uuid4()}/reject", json=body)).status_code == 404


async def test_alerts(client: httpx.AsyncClient, world: World, settings: ValidatorSettings) -> None:
    validate(world.sessions, world.store, settings, world.validation(world.version(weight=-1.0)))
    (alert,) = (await client.get(f"{BASE}/alerts")).json()["items"]
    assert (alert["kind"], alert["acknowledged_at"]) == ("candidate-insane", None)
    path = f"{BASE}/alerts/{alert['id']}/acknowledge"
    assert (await client.post(path, headers=as_key(READER_KEY))).status_code == 403
    first = (await client.post(path)).json()
    assert (first["acknowledged_by"], first["acknowledged_at"] is not None) == ("ana", True)
    assert (await client.post(path)).json() == first
    assert (await client.post(f"{BASE}/alerts/{uuid.uuid4()}/acknowledge")).status_code == 404


async def test_monitoring(client: httpx.AsyncClient, world: World) -> None:
    empty = (await client.get(f"{BASE}/monitoring")).json()
    assert (empty["live"], empty["days"], empty["task"], empty["bias_tolerance"]) == (None, [], "binary", 0.05)
    assert empty["up_to_date"]
    live = world.version()
    world.deploy(live)
    start = datetime(2013, 3, 20, tzinfo=UTC)
    world.log(live, ["a", "b", "c"], [start + timedelta(days=i) for i in range(3)], [0.3, 0.34, 0.5])
    early = (await client.get(f"{BASE}/monitoring")).json()
    assert (early["days"], early["up_to_date"]) == ([], False)
    monitor(world.sessions, world.pipeline_id)
    whole = (await client.get(f"{BASE}/monitoring")).json()
    assert whole["up_to_date"]
    assert whole["live"]["version"] == live.number
    assert [(d["day"], d["biased"]) for d in whole["days"]] == [
        ("2013-03-20", False),
        ("2013-03-21", False),
        ("2013-03-22", True),
    ]
    some = {"from": "2013-03-21T00:00:00Z", "to": "2013-03-22T00:00:00Z"}
    assert [d["day"] for d in (await client.get(f"{BASE}/monitoring", params=some)).json()["days"]] == ["2013-03-21"]
    some = {"from": "2013-03-21", "to": "2013-03-22"}
    assert len((await client.get(f"{BASE}/monitoring", params=some)).json()["days"]) == 2
    backwards = await client.get(f"{BASE}/monitoring", params={"from": "2013-03-22", "to": "2013-03-20"})
    assert backwards.status_code == 422
    for bad in ("yesterday", "2013-03-21T00:00:00", "99999-01-01", "2013-02-30", "5", "", "0001-01-01T00:00:00Z"):
        assert (await client.get(f"{BASE}/monitoring", params={"from": bad})).status_code == 422
    assert (
        await client.get(f"{BASE}/monitoring", params={"from": "0001-01-01", "to": "9999-12-31"})
    ).status_code == 200


async def test_health_docs_and_metrics(client: httpx.AsyncClient) -> None:
    ready = (await client.get("/readyz")).json()
    assert (ready["status"], set(ready["checks"])) == ("ready", {"postgres", "redis"})
    assert (await client.get("/docs")).status_code == 200
    assert "relevo_validator_live_version" in (await client.get("/metrics")).text
