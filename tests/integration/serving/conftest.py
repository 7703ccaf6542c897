"""A registry with real artifacts, and the serving app running in this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from prometheus_client import REGISTRY
from sqlalchemy import text

from services.serving.app import create_app
from services.serving.routes.state import Serving
from shared.artifacts import open_store
from shared.registry.session import Sessions
from tests.integration.serving.registry import ADMIN_KEY, Registry

DEADLINE_S = 30.0


LOGGED = """
select pipeline_id, request_id, row_index, seq, requested_at, version_id, version_number, generation, pinned, role, key, event_time,
       available_at, score, instance
from predictions order by request_id, row_index
"""
"""Not all columns: the view's span of a request is made for conditions, and costs the whole request for each row shown."""


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def flight(number: int = 1, **fields: Any) -> dict[str, Any]:
    """One instance."""
    return {
        "flight": f"AA-{number}",
        "departs": "2013-06-02T12:00:00-04:00",
        "carrier": "AA",
        "distance": 500,
        **fields,
    }


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str) -> None:
    """Wait for a condition, generously."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        answer = true()
        if (await answer) if isinstance(answer, Awaitable) else answer:
            return
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.02)


class Replica:
    """The app and a client that holds the admin key."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient, sessions: Sessions) -> None:
        self.app = app
        self.client = client
        self.sessions = sessions

    @property
    def serving(self) -> Serving:
        """Its parts."""
        found = self.app.state.serving
        assert isinstance(found, Serving)
        return found

    async def predict(self, *instances: dict[str, Any], **fields: Any) -> httpx.Response:
        """POST /predict."""
        return await self.client.post("/predict", json={"instances": list(instances) or [flight()], **fields})

    async def promote(self, version: int, model: str = "delays", **fields: Any) -> httpx.Response:
        """POST .../promote."""
        return await self.client.post(f"/admin/models/{model}/promote", json={"version": version, **fields})

    async def roll_back(self, model: str = "delays", **fields: Any) -> httpx.Response:
        """POST .../rollback."""
        return await self.client.post(f"/admin/models/{model}/rollback", json={"reason": "test", **fields})

    async def canary(self, version: int | None, model: str = "delays", **fields: Any) -> httpx.Response:
        """POST .../canary."""
        return await self.client.post(f"/admin/models/{model}/canary", json={"version": version, **fields})

    async def shadow(self, version: int | None, model: str = "delays", **fields: Any) -> httpx.Response:
        """POST .../shadow."""
        return await self.client.post(f"/admin/models/{model}/shadow", json={"version": version, **fields})

    def logged(self) -> list[Any]:
        """All predictions in the registry, oldest first."""
        with self.sessions.begin() as session:
            return list(session.execute(text(LOGGED)))

    async def shipped(self, count: int) -> list[Any]:
        """All predictions, once there are `count`."""
        await until(lambda: len(self.logged()) >= count, f"{count} predictions in the registry")
        return self.logged()


@contextlib.asynccontextmanager
async def running(sessions: Sessions) -> AsyncIterator[Replica]:
    """The app, started from the environment and stopped again."""
    app = create_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://serving", headers=bearer(ADMIN_KEY)
        ) as client:
            replica = Replica(app, client, sessions)
            await until(lambda: replica.serving.follower.known, "the registry is read")
            await until(lambda: app.state.keys.age_s is not None, "the keys are read")
            yield replica


@pytest.fixture
def registry(relevo_env: dict[str, str], sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Writes registry rows; predictions are shipped in quick rhythm."""
    monkeypatch.setenv("SERVING_SHIP_S", "0.05")
    return Registry(sessions, open_store(relevo_env["RELEVO_ARTIFACTS_URL"]))


@pytest_asyncio.fixture
async def replica(registry: Registry, sessions: Sessions) -> AsyncIterator[Replica]:
    """A running replica on a registry without pipelines."""
    async with running(sessions) as found:
        yield found


def sample(name: str, **labels: str) -> float:
    """A metric's value in this process; 0 when it has none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
