"""A client that dawdles ends, one that does not is left alone; whoever is one too many hears it, and health still answers."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI

from shared.contracts.scopes import Scope
from shared.web import patience
from shared.web.auth import GuardedRouter
from shared.web.patience import Patience, PatientProtocol
from shared.web.raw import Answer, Call, raw
from tests.unit.shared.web.conftest import Keys, build
from tests.unit.shared.web.express.echo import Connection, request
from tests.unit.shared.web.express.echo import serving as on_port

Connect = Callable[[int], Awaitable[Connection]]
PATIENT = Patience(head_s=60, answer_s=60, most=1000, always=("/healthz",))
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
LARGE = 64 * 2**20


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests need not wait long."""
    monkeypatch.setattr(patience, "LOOK_S", 0.02)
    monkeypatch.setattr(patience, "RESERVE", 1)


@pytest.fixture
def key(keys: Keys) -> str:
    """One that may predict."""
    return keys.add(Scope.PREDICT)


@pytest_asyncio.fixture
async def to() -> AsyncIterator[Connect]:
    """Connects, and closes in the end."""
    opened: list[Connection] = []

    async def connect(port: int) -> Connection:
        opened.append(await Connection.to(port))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@contextlib.asynccontextmanager
async def serving(keys: Keys, limits: Patience) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """A server with the protocol, and its port."""
    router = GuardedRouter()

    @raw(router, "/echo", scope=Scope.PREDICT)
    async def echo(call: Call) -> Answer:
        """Give the body back."""
        return call.body

    @raw(router, "/large", scope=Scope.PREDICT)
    async def large(call: Call) -> Answer:
        """More than lies about in the buffers of two sockets."""
        return b" " * LARGE

    app: FastAPI = build(keys, routers=[router])
    app.state.patience = limits
    async with on_port(app, PatientProtocol) as found:
        yield found


async def test_a_head_that_does_not_end_ends_the_connection(keys: Keys, key: str, to: Connect) -> None:
    async with serving(keys, replace(PATIENT, head_s=0.3)) as (_, port):
        silent, slow = await to(port), await to(port)
        assert await silent.ended()
        with contextlib.suppress(ConnectionError):
            for byte in request(b"1", key):
                await slow.send(bytes([byte]))
                await asyncio.sleep(0.05)
        assert await slow.ended()


async def test_a_head_that_dawdles_after_an_answer_ends_the_connection_too(keys: Keys, key: str, to: Connect) -> None:
    async with serving(keys, replace(PATIENT, head_s=0.3)) as (_, port):
        connection = await to(port)
        await connection.send(request(b"1", key))
        assert (await connection.answer())[0] == "HTTP/1.1 200 OK"
        await connection.send(b"POST /echo")
        assert await connection.ended()


async def test_a_client_that_does_not_read_its_answer_is_let_go_with_the_memory(keys: Keys, key: str) -> None:
    async with serving(keys, replace(PATIENT, answer_s=0.3)) as (server, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            await asyncio.to_thread(client.sendall, request(b"1", key, path="/large"))
            async with asyncio.timeout(60):
                while server.server_state.total_requests < 1 or server.server_state.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            received = 0
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.to_thread(client.recv, 2**20):
                    received += len(data)
            assert received < LARGE


async def test_who_does_not_dawdle_is_left_alone(keys: Keys, key: str, to: Connect) -> None:
    async with serving(keys, replace(PATIENT, head_s=0.5, answer_s=0.5)) as (_, port):
        connection = await to(port)
        for _ in range(8):
            await connection.send(request(b"1", key))
            assert (await connection.answer())[2] == b"1"
            await asyncio.sleep(0.15)
        large = await to(port)
        await large.send(request(b"1", key, path="/large"))
        assert len((await large.answer())[2]) == LARGE


async def test_one_connection_too_many_is_refused_and_health_answers_on_it(keys: Keys, key: str, to: Connect) -> None:
    async with serving(keys, replace(PATIENT, most=2)) as (_, port):
        first = [await to(port) for _ in range(2)]
        for connection in first:
            await connection.send(request(b"1", key))
            assert (await connection.answer())[0] == "HTTP/1.1 200 OK"
        surplus = await to(port)
        await surplus.send(HEALTH)
        assert (await surplus.answer())[0] == "HTTP/1.1 200 OK"
        assert await (await to(port)).ended(), "beyond the reserve nobody is heard"
        await surplus.send(request(b"1", key, "X-Request-ID: mine"))
        status, headers, body = await surplus.answer()
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert (headers["connection"], headers["x-request-id"]) == ("close", "mine")
        assert "retry-after" in headers
        assert b'"request_id":"mine"' in body
        assert await surplus.ended()
        await first[0].close()
        async with asyncio.timeout(60):
            while True:
                again = await to(port)
                await again.send(request(b"1", key))
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    if (await again.answer())[0] == "HTTP/1.1 200 OK":
                        break
                await again.close()
