"""How another service's answer is understood: done, never, or not now."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest

from services.trainer.peers import Peer, Peers, Refused
from shared.errors import Unavailable
from shared.observability.context import request_id

ROW, CYCLE = uuid.UUID(int=7), uuid.UUID(int=9)
Answer = Callable[[httpx.Request], httpx.Response]


def peer(answer: Answer, name: str = "data") -> Peer:
    transport = httpx.MockTransport(answer)
    return Peer(name, "http://service", "rlv_key", timeout_s=5, transport=transport)


def post(answer: Answer) -> uuid.UUID:
    asked = peer(answer)
    try:
        return asked.post("/v1/things", {"a": 1}, idempotency_key="k")
    finally:
        asked.close()


@pytest.mark.parametrize("headers", [{}, {"idempotent-replay": "true"}], ids=["new", "replayed"])
def test_accepted(headers: dict[str, str]) -> None:
    assert post(lambda _: httpx.Response(202, json={"id": str(ROW)}, headers=headers)) == ROW


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422])
def test_refused_for_good(status: int) -> None:
    with pytest.raises(Refused, match=r"The data service refused: There is no label yet\."):
        post(lambda _: httpx.Response(status, json={"detail": "There is no label yet."}))


def test_refused_without_a_reason() -> None:
    with pytest.raises(Refused, match="refused: status 422 without a reason"):
        post(lambda _: httpx.Response(422, text="<html>"))
    with pytest.raises(Refused, match="refused: status 400 without a reason"):
        post(lambda _: httpx.Response(400, json=["?"]))


@pytest.mark.parametrize("status", [302, 401, 403, 408, 425, 429, 500, 502, 503, 504])
def test_not_now(status: int) -> None:
    with pytest.raises(Unavailable, match=f"The data service answered {status}: wait"):
        post(lambda _: httpx.Response(status, json={"detail": "wait"}, headers={"location": "http://elsewhere"}))


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError]
)
def test_unreachable(error: type[httpx.TransportError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("secret-host.internal", request=request)

    with pytest.raises(Unavailable, match=rf"cannot be reached \({error.__name__}\)") as caught:
        post(answer)
    assert "secret-host" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": null}', b'{"id": 7}', b'{"id": "x"}'])
def test_an_answer_without_a_row_is_asked_again(body: bytes) -> None:
    with pytest.raises(Unavailable, match="without the id of a row"):
        post(lambda _: httpx.Response(202, content=body))


def test_what_is_asked() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"id": str(ROW)})

    token = request_id.set("from-the-user")
    peers = Peers(peer(answer), peer(answer, "validator"))
    try:
        as_of = datetime(2013, 3, 1, tzinfo=UTC)
        for _ in range(2):
            peers.request_dataset("flights", CYCLE, as_of)
        peers.request_validation("flights", CYCLE, 3)
    finally:
        peers.close()
        request_id.reset(token)

    def told(request: httpx.Request) -> tuple[str, Any, str, str, str]:
        head = request.headers
        return (
            request.url.path,
            orjson.loads(request.content),
            head["idempotency-key"],
            head["x-request-id"],
            head["authorization"],
        )

    dataset = ("/v1/pipelines/flights/datasets", {"as_of": "2013-03-01T00:00:00+00:00", "cycle": str(CYCLE)})
    verdict = ("/v1/pipelines/flights/validations", {"candidate": 3, "cycle": str(CYCLE)})
    rest = ("from-the-user", "Bearer rlv_key")
    assert [told(request) for request in seen] == [
        (*dataset, f"cycle-{CYCLE}-dataset", *rest),
        (*dataset, f"cycle-{CYCLE}-dataset", *rest),
        (*verdict, f"cycle-{CYCLE}-validation", *rest),
    ]
