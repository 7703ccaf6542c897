"""A server with the short way, to which one key is known."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from shared.contracts.scopes import Scope
from shared.web.express import MOST_BYTES, ExpressProtocol
from tests.unit.shared.web.conftest import Keys, build, make_settings
from tests.unit.shared.web.express.echo import Connection, Echo, request, serving


@pytest.fixture(autouse=True)
def keys_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each reading of the keys the first request with one goes the general way."""
    monkeypatch.setattr("shared.keyring.REFRESH_S", 3600.0)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def app(keys: Keys, echo: Echo, quiet_logging: list[Any]) -> FastAPI:
    settings = make_settings(body_limit_bytes=2 * MOST_BYTES, upload_limit_bytes=2 * MOST_BYTES, body_timeout_s=5)
    return build(keys, routers=[echo.router], settings=settings)


@pytest.fixture
def key(keys: Keys) -> str:
    return keys.add(Scope.PREDICT)


@pytest.fixture
async def port(app: FastAPI, key: str) -> AsyncIterator[int]:
    """Of a server with the short way, to which the key is known."""
    async with serving(app, ExpressProtocol) as (_, port):
        connection = await Connection.to(port)
        await connection.send(request(b"0", key))
        assert (await connection.answer())[0] == "HTTP/1.1 200 OK"
        await connection.close()
        yield port


@pytest.fixture
async def connection(port: int) -> AsyncIterator[Connection]:
    opened = await Connection.to(port)
    yield opened
    await opened.close()
