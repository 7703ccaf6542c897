"""Idempotency-Key against a real registry: once, whatever happens at the same time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from sqlalchemy import text

from shared.config import CommonSettings
from shared.contracts.scopes import ADMIN, Scope
from shared.errors import Conflict
from shared.keys import ensure_key, generate
from shared.registry.session import Sessions
from shared.web.app import make_app
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import SessionDep
from shared.web.idempotency import IdempotencyKey, once

ONE, OTHER = generate(), generate()


class Order(BaseModel):
    """What the test route takes."""

    amount: int


class Shop:
    """A route with an effect that can be counted, made to fail, and held up."""

    def __init__(self) -> None:
        self.done = 0
        self.failures = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.router = GuardedRouter()
        self.router.post("/v1/shops/{shop}/orders", status_code=202, dependencies=[requires(Scope.TRAIN)])(self.order)

    def order(
        self, shop: str, body: Order, request: Request, session: SessionDep, key: IdempotencyKey = None
    ) -> Response:
        def effect() -> tuple[int, dict[str, Any]]:
            session.execute(text("insert into orders (amount) values (:amount)"), {"amount": body.amount})
            self.begun.set()
            assert self.go_on.wait(30)
            if self.failures:
                self.failures -= 1
                raise Conflict("Out of stock.")
            self.done += 1
            return 202, {"zebra": self.done, "amount": body.amount}

        return once(session, request, key, effect)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def client(shop: Shop, relevo_env: dict[str, str], sessions: Sessions) -> AsyncIterator[httpx.AsyncClient]:
    with sessions.begin() as session:
        session.execute(text("create table orders (id serial, amount int not null)"))
        ensure_key(session, ONE, "one", ADMIN)
        ensure_key(session, OTHER, "other", ADMIN)
    app: FastAPI = make_app(
        service="test",
        title="Shop",
        description="Orders.",
        settings=CommonSettings(),
        sessions=sessions,
        routers=[shop.router],
        checks={},
    )
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as opened,
    ):
        opened.headers["Authorization"] = f"Bearer {ONE}"
        yield opened


def _orders(sessions: Sessions) -> int:
    with sessions.begin() as session:
        count: int = session.execute(text("select count(*) from orders")).scalar_one()
        return count


async def _order(
    client: httpx.AsyncClient, key: str | None, amount: int = 5, shop: str = "a", **headers: str
) -> httpx.Response:
    sent = {**headers, **({} if key is None else {"Idempotency-Key": key})}
    return await client.post(f"/v1/shops/{shop}/orders", json={"amount": amount}, headers=sent)


async def test_without_a_key_each_request_counts(client: httpx.AsyncClient, sessions: Sessions) -> None:
    assert [(await _order(client, None)).status_code for _ in range(2)] == [202, 202]
    assert _orders(sessions) == 2


async def test_a_repeat_gets_the_first_answer(client: httpx.AsyncClient, sessions: Sessions) -> None:
    first, again = await _order(client, "k"), await _order(client, "k")
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert _orders(sessions) == 1


async def test_another_body_under_the_same_key_is_422(client: httpx.AsyncClient, sessions: Sessions) -> None:
    await _order(client, "k")
    answer = await _order(client, "k", amount=6)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert _orders(sessions) == 1


async def test_keys_belong_to_the_caller_and_the_path(client: httpx.AsyncClient, sessions: Sessions) -> None:
    await _order(client, "k")
    assert "idempotent-replay" not in (await _order(client, "k", shop="b")).headers
    assert "idempotent-replay" not in (await _order(client, "k", Authorization=f"Bearer {OTHER}")).headers
    assert _orders(sessions) == 3


async def test_a_failure_is_not_remembered(client: httpx.AsyncClient, shop: Shop, sessions: Sessions) -> None:
    shop.failures = 1
    assert (await _order(client, "k")).status_code == 409
    answer = await _order(client, "k")
    assert answer.status_code == 202
    assert "idempotent-replay" not in answer.headers
    assert _orders(sessions) == 1


@pytest.mark.parametrize("first_fails", [False, True])
async def test_of_two_at_once_one_acts_and_the_other_waits(
    client: httpx.AsyncClient, shop: Shop, sessions: Sessions, first_fails: bool
) -> None:
    shop.go_on.clear()
    shop.failures = int(first_fails)
    first = asyncio.create_task(_order(client, "k"))
    await asyncio.to_thread(shop.begun.wait, 30)
    second = asyncio.create_task(_order(client, "k"))
    await _until_someone_waits(sessions)
    assert not second.done()
    shop.go_on.set()
    assert (await first).status_code == (409 if first_fails else 202)
    assert (await second).status_code == 202
    assert ("idempotent-replay" in (await second).headers) is not first_fails
    assert first_fails or (await first).json() == (await second).json()
    assert _orders(sessions) == shop.done == 1


async def _until_someone_waits(sessions: Sessions) -> None:
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with asyncio.timeout(30):
        while True:
            with sessions.begin() as session:
                if session.execute(text(waiting)).scalar_one():
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "tab\tbed", "\xe9"])
async def test_bad_keys_are_422(client: httpx.AsyncClient, key: str) -> None:
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    answer = await client.post("/v1/shops/a/orders", json={"amount": 1}, headers=headers)
    assert answer.status_code == 422
