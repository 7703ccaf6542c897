"""The data service in this process, over HTTP, on a registry and a store of the test's own."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import select
from sqlmodel import col

from services.data.app import create_app
from services.data.config import DataSettings
from services.data.tasks import build_row
from shared.artifacts import ArtifactStore, open_store
from shared.config import CommonSettings
from shared.contracts.scopes import ADMIN
from shared.keys import ensure_key
from shared.registry.session import Sessions
from shared.registry.tables import Dataset, Pipeline
from tests.unit.data.samples import SPEC

ADMIN_KEY = "rlv_00000000000a_" + "a" * 43


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app behind a real server on a free port of this machine; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, name="data-service")
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline, "the service did not start in time"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


class Service:
    """A client that holds the admin key, and what a worker would do."""

    def __init__(self, client: httpx.Client, sessions: Sessions, settings: CommonSettings) -> None:
        self.client, self.sessions, self.settings = client, sessions, settings
        self.store: ArtifactStore = open_store(settings.artifacts_url)
        self.limits = DataSettings()

    def get(self, path: str, **options: Any) -> Any:
        """The JSON of a GET that succeeds."""
        answer = self.client.get(f"/v1{path}", **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object, status: int = 200, **options: Any) -> Any:
        """The JSON of a POST that ends with this status."""
        answer = self.client.post(f"/v1{path}", json=body, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    def events(self, rows: list[dict[str, Any]], pipeline: str = "trips") -> Any:
        """Send events; their verdicts."""
        return self.post(f"/pipelines/{pipeline}/events", rows)

    def labels(self, rows: list[dict[str, Any]], pipeline: str = "trips") -> Any:
        """Send labels; their verdicts."""
        return self.post(f"/pipelines/{pipeline}/labels", rows)

    def dataset(self, pipeline: str = "trips", **body: Any) -> Any:
        """Ask for a dataset, build it as the worker does, and return how it ended."""
        asked = self.post(f"/pipelines/{pipeline}/datasets", body, 202)
        self.build(uuid.UUID(asked["id"]))
        return self.get(f"/pipelines/{pipeline}/datasets/{asked['number']}")

    def build(self, row_id: uuid.UUID) -> None:
        """What the worker does with a nudge."""
        build_row(row_id, self.sessions, self.store, self.settings, self.limits)

    def pipeline_id(self, name: str = "trips") -> uuid.UUID:
        """The pipeline's id."""
        with self.sessions.begin() as session:
            return session.scalars(select(Pipeline.id).where(col(Pipeline.name) == name)).one()

    def row(self, number: int) -> Dataset:
        """A dataset's row."""
        with self.sessions.begin() as session:
            return session.scalars(select(Dataset).where(col(Dataset.number) == number)).one()


@pytest.fixture
def settings(relevo_env: dict[str, str]) -> CommonSettings:
    """The environment's settings."""
    return CommonSettings()


@pytest.fixture
def service(settings: CommonSettings, sessions: Sessions) -> Iterator[Service]:
    """The service, without pipelines."""
    with sessions.begin() as session:
        ensure_key(session, ADMIN_KEY, "admin", ADMIN)
    with (
        served(create_app(settings)) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=60) as client,
    ):
        yield Service(client, sessions, settings)


@pytest.fixture
def trips(service: Service) -> Service:
    """The service with the pipeline `trips`."""
    applied = service.client.post(
        "/v1/pipelines", content=orjson.dumps(SPEC), headers={"content-type": "application/json"}
    )
    assert applied.status_code == 201, applied.text
    return service
