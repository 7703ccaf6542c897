"""What make_app gives every service: request ids, health, metrics, documents."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared.contracts.scopes import Scope
from shared.web import health
from tests.unit.shared.web.conftest import Keys, build, running


async def test_a_harmless_request_id_is_kept(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/nothing", headers={"X-Request-ID": "cycle-7.step_2"})
    assert answer.headers["x-request-id"] == "cycle-7.step_2"
    assert answer.json()["request_id"] == "cycle-7.step_2"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, '"<script>', "a;b=c"])
async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/healthz", headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] not in ("", given)
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_every_answer_has_an_id_of_its_own(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/v1/things")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def _away() -> None:
    raise ConnectionError("postgresql://user:password@host is away")


async def test_ready_names_every_dependency(keys: Keys, quiet_logging: list[Any]) -> None:
    async with running(build(keys, checks={"postgres": lambda: None, "redis": lambda: None})) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "ready"
    assert {name: check["ok"] for name, check in body["checks"].items()} == {"postgres": True, "redis": True}


async def test_a_needed_dependency_away_is_503(keys: Keys, quiet_logging: list[Any]) -> None:
    async with running(build(keys, checks={"postgres": _away, "redis": lambda: None})) as client:
        answer = await client.get("/readyz")
        alive = await client.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["checks"]["postgres"]["ok"] is False
    assert "password" not in answer.text
    assert alive.status_code == 200


async def test_a_helpful_dependency_away_is_degraded(keys: Keys, quiet_logging: list[Any]) -> None:
    async with running(build(keys, checks={"models": lambda: None}, helpful_checks={"postgres": _away})) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["degraded"] == ["postgres"]


async def test_a_hanging_dependency_is_given_up_and_not_asked_twice(
    keys: Keys, quiet_logging: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "DEADLINE_S", 0.02)
    release = threading.Event()
    asked = 0

    def hang() -> None:
        nonlocal asked
        asked += 1
        release.wait(30)

    try:
        async with running(build(keys, checks={"postgres": hang})) as client:
            answers = [await client.get("/readyz") for _ in range(3)]
    finally:
        release.set()
    assert {answer.status_code for answer in answers} == {503}
    assert "no answer" in answers[0].json()["checks"]["postgres"]["detail"]
    assert asked == 1


async def test_metrics_name_routes_and_not_paths(client: httpx.AsyncClient) -> None:
    await client.post("/v1/pipelines/very-special-name/items", json={"count": 1})
    await client.get("/v1/no/such/path/very-special-name")
    text = (await client.get("/metrics")).text
    assert "very-special-name" not in text
    assert "relevo_build_info" in text


async def _openapi(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


async def test_openapi_lists_problems_and_the_scheme_on_every_guarded_route(client: httpx.AsyncClient) -> None:
    document = await _openapi(client)
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    assert {"Problem", "FieldProblem"} <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    operation = document["paths"]["/v1/pipelines/{p}/items"]["post"]
    assert operation["security"] == [{"ApiKey": []}]
    assert f"`{Scope.INGEST}`" in operation["description"]
    for status in ("400", "401", "403", "404", "409", "413", "415", "422", "503"):
        content = operation["responses"][status]["content"]
        assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert "security" not in document["paths"]["/healthz"]["get"]


async def test_nobody_reads_keys_any_more_when_the_service_closes_its_engine(
    keys: Keys, quiet_logging: list[Any]
) -> None:
    reading: list[bool] = []

    def key_threads() -> bool:
        return any(thread.name == "keyring" for thread in threading.enumerate())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reading.append(key_threads())
        yield
        reading.append(key_threads())

    async with running(build(keys, lifespan=lifespan)):
        pass
    assert reading == [True, False]
