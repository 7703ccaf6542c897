"""A raw route answers as a guarded route does, whatever is wrong, and is measured and documented like one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from shared.contracts.scopes import Scope
from shared.errors import Conflict, TooLarge, TooSlow
from shared.web.auth import GuardedRouter
from shared.web.body import read_body
from shared.web.raw import Call, raw
from tests.unit.shared.web.conftest import Keys, bearer, build, running

JSON = {"content-type": "application/json"}
PROBLEM = "application/problem+json"


def echoing() -> GuardedRouter:
    router = GuardedRouter()

    @raw(router, "/echo", scope=Scope.PREDICT)
    async def echo(call: Call) -> bytes:
        """Give the body back."""
        if call.body == b'"conflict"':
            raise Conflict("It moved.")
        if call.body == b'"bug"':
            raise ZeroDivisionError("secret detail")
        return call.body

    @raw(router, "/v1/models/{p}/echo", scope=Scope.PREDICT)
    async def echo_for(call: Call) -> bytes:
        """Say which pipeline."""
        return b'"%b"' % call.path["p"].encode()

    return router


@pytest.fixture
def app(keys: Keys, quiet_logging: list[Any]) -> FastAPI:
    return build(keys, routers=[echoing()])


@pytest.fixture
async def client(app: FastAPI, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as opened:
        opened.headers.update({**bearer(keys.add(Scope.PREDICT)), **JSON})
        yield opened


def requests(status: int, handler: str = "/echo") -> float:
    labels = {"method": "POST", "status": str(status), "handler": handler}
    return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0


async def test_bytes_in_bytes_out(client: httpx.AsyncClient) -> None:
    answer = await client.post("/echo", content=b'{"a": 1}', headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.content) == (200, b'{"a": 1}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == "8"
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await client.post("/v1/models/trips/echo", content=b"1")).json() == "trips"


async def test_a_request_without_an_id_gets_a_new_one(client: httpx.AsyncClient) -> None:
    ids = {(await client.post("/echo", content=b"1")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    harmful = await client.post("/echo", content=b"1", headers={"x-request-id": "a b"})
    assert harmful.headers["x-request-id"] != "a b"


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], int, str]] = {
    "no key": (lambda request: request["headers"].pop("authorization"), 401, "unauthenticated"),
    "no such key": (lambda request: request["headers"].update(authorization="Bearer rlv_x_y"), 401, "unauthenticated"),
    "another type": (
        lambda request: request["headers"].update({"content-type": "text/plain"}),
        415,
        "unsupported-media-type",
    ),
    "too large": (lambda request: request.update(content=b"1" * 2001), 413, "too-large"),
    "a parameter": (lambda request: request.update(url="/echo?dry_run=1"), 422, "invalid"),
    "a conflict": (lambda request: request.update(content=b'"conflict"'), 409, "conflict"),
    "a bug": (lambda request: request.update(content=b'"bug"'), 500, "internal"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_whatever_is_wrong_is_a_problem(client: httpx.AsyncClient, name: str) -> None:
    change, status, slug = WRONG[name]
    before = requests(status)
    request: dict[str, Any] = {"url": "/echo", "content": b"1", "headers": dict(client.headers)}
    change(request)
    client.headers.clear()
    answer = await client.post(**request)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["type"] == f"urn:relevo:problem:{slug}"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret detail" not in answer.text
    assert requests(status) == before + 1


async def test_a_key_without_the_scope_or_the_pipeline_is_refused_however_often_it_asks(
    client: httpx.AsyncClient, keys: Keys
) -> None:
    reader = bearer(keys.add(Scope.READ))
    limited = bearer(keys.add(Scope.PREDICT, pipelines=["trips"]))
    for _ in range(3):
        assert (await client.post("/echo", content=b"1", headers=reader)).status_code == 403
        assert (await client.post("/v1/models/trips/echo", content=b"1", headers=limited)).status_code == 200
        assert (await client.post("/v1/models/other/echo", content=b"1", headers=limited)).status_code == 404


async def test_a_header_given_twice_is_no_way_in(client: httpx.AsyncClient) -> None:
    assert (await client.post("/echo", content=b"1")).status_code == 200, "the key is known by now"
    twice = [*client.headers.multi_items(), ("authorization", client.headers["authorization"])]
    assert (await client.post("/echo", content=b"1", headers=twice)).status_code == 401


async def test_a_revoked_key_is_known_no_longer_than_until_the_next_read(
    app: FastAPI, client: httpx.AsyncClient, keys: Keys
) -> None:
    assert (await client.post("/echo", content=b"1")).status_code == 200
    keys.revoke(client.headers["authorization"].removeprefix("Bearer "))
    app.state.keys.refresh()
    assert (await client.post("/echo", content=b"1")).status_code == 401


async def test_it_is_documented_and_other_methods_are_refused(app: FastAPI, client: httpx.AsyncClient) -> None:
    operation = app.openapi()["paths"]["/echo"]["post"]
    assert operation["description"].startswith("Give the body back.")
    assert "`predict`" in operation["description"]
    assert [given["name"] for given in app.openapi()["paths"]["/v1/models/{p}/echo"]["post"]["parameters"]] == ["p"]
    assert (await client.get("/echo")).status_code == 405


# Bodies as a server gives them


def messages(*given: Any) -> Callable[[], Any]:
    """A `receive` that gives messages: bytes at once, None after the loop came round, an event when it is set."""
    left = list(given)

    async def receive() -> dict[str, Any]:
        while True:
            part = left.pop(0)
            if part is None:
                await asyncio.sleep(0)
            elif isinstance(part, asyncio.Event):
                await part.wait()
            elif isinstance(part, bytes):
                return {"type": "http.request", "body": part, "more_body": bool(left)}
            else:
                return {"type": "http.disconnect"}

    return receive


async def read(*given: Any, limit_bytes: int = 10, timeout_s: float = 30, declared_bytes: int = 0) -> bytes:
    return await read_body(messages(*given), declared_bytes, limit_bytes=limit_bytes, timeout_s=timeout_s)


@pytest.mark.parametrize(
    "parts", [[b"abc"], [None, b"abc"], [b"a", b"bc"], [b"a", None, b"b", None, None, b"c"], [None, b"", b"abc"]]
)
async def test_a_body_arrives_in_whatever_pieces(parts: list[Any]) -> None:
    assert await read(*parts) == b"abc"


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 5], [None, b"x" * 11]])
async def test_a_body_over_the_limit_is_refused_wherever_it_shows(parts: list[Any]) -> None:
    with pytest.raises(TooLarge):
        await read(*parts)
    with pytest.raises(TooLarge):
        await read(asyncio.Event(), declared_bytes=11)


@pytest.mark.parametrize("parts", [[], [b"x"]])
async def test_a_body_that_dawdles_is_too_slow(parts: list[Any]) -> None:
    with pytest.raises(TooSlow):
        await read(*parts, asyncio.Event(), b"y", timeout_s=0.01)


async def test_a_reader_that_is_cancelled_leaves_nothing_behind() -> None:
    task = asyncio.create_task(read(asyncio.Event(), b"x"))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
