"""A registry with one pipeline, stand-ins for the data service and the validator, and the trainer's own app."""

import uuid
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from sqlalchemy import text

from services.trainer.app import create_app
from services.trainer.config import TrainerSettings
from shared.artifacts import ArtifactStore, open_store
from shared.contracts.scopes import ADMIN, Scope
from shared.keys import ensure_key, generate
from shared.registry.session import Sessions
from tests.integration.trainer.neighbours import Neighbours
from tests.support.rows import Rows

ADMIN_KEY, READER_KEY, OTHER_KEY = generate(), generate(), generate()


@pytest.fixture
def settings(relevo_env: dict[str, str]) -> TrainerSettings:
    return TrainerSettings()


@pytest.fixture
def store(settings: TrainerSettings) -> ArtifactStore:
    return open_store(settings.artifacts_url)


@pytest.fixture
def rows(sessions: Sessions) -> Rows:
    return Rows(sessions)


@pytest.fixture
def pipeline(rows: Rows) -> uuid.UUID:
    return rows.pipeline()


@pytest.fixture
def neighbours(rows: Rows, pipeline: uuid.UUID) -> Iterator[Neighbours]:
    stand_ins = Neighbours(rows, pipeline)
    yield stand_ins
    stand_ins.peers.close()


@pytest.fixture
async def client(settings: TrainerSettings, sessions: Sessions) -> AsyncIterator[httpx.AsyncClient]:
    """Holds the admin key."""
    with sessions.begin() as session:
        ensure_key(session, ADMIN_KEY, "ana", ADMIN)
        ensure_key(session, READER_KEY, "reader", {Scope.READ})
        ensure_key(session, OTHER_KEY, "other", ADMIN)
        session.execute(
            text("update api_keys set pipelines = array['elsewhere'] where id = :id"), {"id": OTHER_KEY.split("_")[1]}
        )
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://trainer", headers=as_key(ADMIN_KEY)) as opened,
    ):
        yield opened


def as_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
