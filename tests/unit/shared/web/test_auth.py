"""Who is let in, what is read before that, and what refuses to start."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from shared.contracts.scopes import Scope
from shared.errors import Unauthenticated
from shared.keyring import KeyRing
from shared.keys import generate
from shared.web.auth import GuardedRouter, assert_guarded, authenticate, requires
from tests.unit.shared.web.conftest import Keys, bearer, build, running

ITEM = {"count": 1}


async def test_without_a_key_every_route_is_401_with_a_challenge(client: httpx.AsyncClient) -> None:
    del client.headers["authorization"]
    answer = await client.get("/v1/things")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "urn:relevo:problem:unauthenticated"


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Basic dXNlcjpwdw==")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer nonsense")],
        [("Authorization", f"Bearer {generate()}")],
        [("Authorization", "Bearer \xff\xfe")],
        [("X-Api-Key", generate())],
        [("Cookie", f"key={generate()}")],
    ],
)
async def test_anything_but_a_known_bearer_key_is_401(
    keys: Keys, quiet_logging: list[Any], headers: list[tuple[str, str]]
) -> None:
    async with running(build(keys)) as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        assert (await client.get("/v1/things", headers=raw)).status_code == 401


async def test_two_authorization_headers_are_401(keys: Keys, admin: str, quiet_logging: list[Any]) -> None:
    async with running(build(keys)) as client:
        twice = [("Authorization", f"Bearer {admin}"), ("Authorization", f"Bearer {admin}")]
        assert (await client.get("/v1/things", headers=twice)).status_code == 401


async def test_a_key_in_the_query_is_not_looked_at(keys: Keys, admin: str, quiet_logging: list[Any]) -> None:
    async with running(build(keys)) as client:
        assert (await client.get(f"/v1/things?key={admin}&access_token={admin}")).status_code == 401


async def test_a_good_id_with_another_secret_is_401(client: httpx.AsyncClient, admin: str) -> None:
    forged = admin[:17] + generate()[17:]
    assert (await client.get("/v1/things", headers=bearer(forged))).status_code == 401


async def test_a_missing_scope_is_403_and_named(keys: Keys, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/pipelines/a/items", json=ITEM, headers=bearer(keys.add(Scope.READ)))
    assert answer.status_code == 403
    assert "`ingest`" in answer.json()["detail"]


async def test_a_foreign_pipeline_answers_like_one_that_does_not_exist(keys: Keys, client: httpx.AsyncClient) -> None:
    limited = bearer(keys.add(Scope.INGEST, pipelines=["mine"]))
    assert (await client.post("/v1/pipelines/mine/items", json=ITEM, headers=limited)).status_code == 200
    for path in ("/v1/pipelines/other/items", "/v1/pipelines/other/raw"):
        answer = await client.post(path, json=ITEM, headers=limited)
        assert answer.status_code == 404
        assert "other" not in answer.text


async def test_a_key_made_after_the_last_read_works_at_once(keys: Keys, client: httpx.AsyncClient) -> None:
    fresh = keys.add(Scope.READ)
    assert (await client.get("/v1/things", headers=bearer(fresh))).status_code == 200


async def test_the_body_is_not_received_before_the_caller_is_known(
    keys: Keys, admin: str, quiet_logging: list[Any]
) -> None:
    app = build(keys)
    received = 0

    async def receive() -> dict[str, object]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"{not json", "more_body": False}

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def post(*headers: tuple[bytes, bytes]) -> object:
        sent.clear()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/pipelines/a/items",
            "query_string": b"",
            "headers": list(headers),
        }
        await app({**scope, "http_version": "1.1", "scheme": "http", "server": ("test", 80)}, receive, send)  # type: ignore[arg-type]
        return sent[0]["status"]

    async with running(app):
        kind = (b"content-type", b"application/json")
        assert await post(kind) == 401
        weak = keys.add(Scope.READ)
        assert await post(kind, (b"authorization", f"Bearer {weak}".encode())) == 403
        assert received == 0
        assert await post(kind, (b"authorization", f"Bearer {admin}".encode())) == 400
        assert received == 1


async def test_only_the_public_list_answers_without_a_key(keys: Keys, quiet_logging: list[Any]) -> None:
    async with running(build(keys)) as client:
        for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/redoc", "/docs/oauth2-redirect", "/v1", "/"):
            assert (await client.get(path)).status_code == 404, path


def _guarded() -> GuardedRouter:
    return GuardedRouter()


def test_a_guarded_route_without_a_scope_refuses_to_start(keys: Keys) -> None:
    forgotten = _guarded()
    forgotten.get("/v1/forgotten")(lambda: None)
    with pytest.raises(RuntimeError, match="GET /v1/forgotten"):
        build(keys, routers=[forgotten])


def test_a_plain_route_refuses_to_start_even_with_a_scope(keys: Keys) -> None:
    plain = APIRouter(dependencies=[requires(Scope.READ)])
    plain.post("/v1/plain")(lambda: None)
    with pytest.raises(RuntimeError, match="POST /v1/plain"):
        build(keys, routers=[plain])


def test_a_scope_added_by_include_router_does_not_count(keys: Keys) -> None:
    inner, outer = _guarded(), _guarded()
    inner.get("/inner")(lambda: None)
    outer.include_router(inner, prefix="/v1", dependencies=[requires(Scope.READ)])
    with pytest.raises(RuntimeError, match="/v1/inner"):
        build(keys, routers=[outer])


def test_nested_routers_and_router_wide_scopes_are_seen(keys: Keys) -> None:
    inner, outer = GuardedRouter(prefix="/a", dependencies=[requires(Scope.READ)]), _guarded()
    inner.get("/b")(lambda: None)
    outer.include_router(inner, prefix="/v1")
    build(keys, routers=[outer])


def test_mounts_are_walked(keys: Keys) -> None:
    app = build(keys)
    app.mount(
        "/side",
        Starlette(routes=[Route("/open", lambda _: None), Mount("/deep", FastAPI(docs_url=None, redoc_url=None))]),
    )
    with pytest.raises(RuntimeError, match="/side/open"):
        assert_guarded(app)


def test_an_opaque_mount_is_refused(keys: Keys) -> None:
    async def anything(scope: object, receive: object, send: object) -> None: ...

    app = build(keys)
    app.mount("/opaque", anything)
    with pytest.raises(RuntimeError, match="/opaque"):
        assert_guarded(app)


def test_a_frontend_folder_is_refused(keys: Keys, tmp_path: Path) -> None:
    app = build(keys)
    app.frontend("/ui", directory=tmp_path, check_dir=False)
    with pytest.raises(RuntimeError, match="frontend folder"):
        assert_guarded(app)


def test_a_websocket_is_refused(keys: Keys) -> None:
    app = build(keys)
    app.add_api_websocket_route("/ws", lambda: None)
    with pytest.raises(RuntimeError, match="/ws"):
        assert_guarded(app)


def test_authenticate_works_on_raw_headers(keys: Keys) -> None:
    text = keys.add(Scope.PREDICT)
    ring = KeyRing(keys.load, offline_age_s=60)
    ring.refresh()
    headers = [(b"host", b"x"), (b"authorization", b"bearer " + text.encode())]
    assert authenticate(headers, ring, Scope.PREDICT).name == "tester"
    with pytest.raises(Unauthenticated):
        authenticate([(b"host", b"x")], ring, Scope.PREDICT)
