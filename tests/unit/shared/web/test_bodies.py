"""What a body may be: size, time, JSON, depth, texts. Everything else is a clear 4xx."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from shared.contracts.scopes import Scope
from shared.errors import Malformed, TooSlow
from shared.web.body import MAX_DEPTH, bounded, is_json, strict_json
from tests.unit.shared.web.conftest import Keys, bearer

JSON = {"content-type": "application/json"}
ITEMS = "/v1/pipelines/a/items"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "required"),
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "UTF-8"),
        (b'{"count": NaN}', 400, "not valid JSON"),
        (b'{"count": 1, "weight": Infinity}', 400, "not valid JSON"),
        (b'{"count": 1, "weight": 1e999}', 400, "infinity"),
        (b'{"count": 1} trailing', 400, "not valid JSON"),
        (b'{"count": ' + b"9" * 30 + b"}", 422, "count"),
        (b'{"count": ' + b"9" * 300 + b"}", 422, "count"),
        (b'{"count": 1, "label": "a\\u0000b"}', 422, "NUL"),
        (b'{"count": 1, "extra": {"a\\u0000": 1}}', 422, "NUL"),
        (b'{"count": 1, "label": "\\ud800"}', 400, "surrogate"),
        (b'{"count": 1, "label": "\xed\xa0\x80"}', 400, "UTF-8"),
        (b'{"count": 1, "extra": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", 400, "nested"),
        (b"[" * 1500, 400, "not valid JSON"),
        (b"[]", 422, "dictionary"),
        (b"null", 422, "dictionary"),
        (b'{"count": "one"}', 422, "count"),
        (b'{"count": 1, "unknown": 2}', 422, "unknown"),
        (b'{"count": 1, "count": "last wins"}', 422, "count"),
    ],
)
async def test_bad_bodies(client: httpx.AsyncClient, body: bytes, status: int, says: str) -> None:
    answer = await client.post(ITEMS, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.text


async def test_the_rejected_value_is_not_echoed(client: httpx.AsyncClient) -> None:
    answer = await client.post(ITEMS, json={"count": "hunter2", "weight": {"password": "hunter2"}})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert answer.json()["errors"][0].keys() == {"loc", "msg"}
    assert answer.json()["errors"][0]["loc"] == ["body", "count"]


async def test_an_escaped_backslash_before_u0000_is_no_nul(client: httpx.AsyncClient) -> None:
    answer = await client.post(ITEMS, content=rb'{"count": 1, "label": "a\\u0000"}', headers=JSON)
    assert answer.status_code == 200
    assert answer.json()["item"]["label"] == r"a\u0000"


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_415(client: httpx.AsyncClient, kind: str) -> None:
    assert (await client.post(ITEMS, content=b'{"count": 1}', headers={"content-type": kind})).status_code == 415


@pytest.mark.parametrize(
    ("kind", "json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/merge-patch+json", True),
        ("application/x-ndjson", False),
        ("text/json", False),
        ("", False),
    ],
)
def test_is_json(kind: str, json: bool) -> None:
    assert is_json(kind) is json


async def test_a_body_over_the_limit_is_413_and_ends_the_connection(client: httpx.AsyncClient) -> None:
    answer = await client.post(ITEMS, json={"count": 1, "label": "x" * 3000})
    assert answer.status_code == 413
    assert "2000 bytes" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


async def test_a_streamed_body_is_counted(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100

    answer = await client.post(ITEMS, content=chunks(), headers=JSON)
    assert "content-length" not in answer.request.headers
    assert answer.status_code == 413


async def test_uploads_have_a_limit_of_their_own(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/pipelines/a/raw", content=b"x" * 4000)).json() == {"bytes": 4000}
    assert (await client.post("/v1/pipelines/a/raw", content=b"x" * 6000)).status_code == 413


async def test_a_raw_route_has_the_strict_json_too(keys: Keys, client: httpx.AsyncClient) -> None:
    key = bearer(keys.add(Scope.PREDICT))
    assert (await client.post("/v1/parsed", content=b"[1]", headers=key)).json() == {"kind": "list"}
    assert (await client.post("/v1/parsed", content=b"[NaN]", headers=key)).status_code == 400


async def test_a_body_that_does_not_arrive_is_too_slow() -> None:
    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    slow = bounded({"headers": []}, receive, limit_bytes=10, timeout_s=0.01)  # type: ignore[arg-type]
    with pytest.raises(TooSlow):
        await slow()


async def test_after_the_body_nothing_is_limited() -> None:
    messages = iter([{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.02)
        return next(messages)

    reading = bounded({"headers": []}, receive, limit_bytes=10, timeout_s=5)  # type: ignore[arg-type]
    assert (await reading())["body"] == b"x"
    assert (await reading())["type"] == "http.disconnect"


def test_depth_is_counted_in_containers() -> None:
    strict_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    strict_json(b"[" + b"[]," * 500 + b"[]]")
    with pytest.raises(Malformed):
        strict_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
