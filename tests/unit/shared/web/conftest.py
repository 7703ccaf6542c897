"""A small app with real routes, made by `make_app` as every service is, and keys for it. No database."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import httpx
import pytest
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import sessionmaker
from sqlmodel import Session
from structlog.testing import capture_logs

from shared.config import CommonSettings
from shared.contracts.scopes import ADMIN, Scope
from shared.keyring import KeyRing, Reading, StoredKey
from shared.keys import Principal, generate, hash_of, parse
from shared.web.app import make_app
from shared.web.auth import GuardedRouter, principal, requires


class Keys:
    """Keys held in memory, with a loader for a KeyRing."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredKey] = {}
        self.at = datetime(2013, 1, 1, tzinfo=UTC)
        self.reads = 0
        self.failure: Exception | None = None

    def add(self, *scopes: Scope, pipelines: list[str] | None = None, expires_at: datetime | None = None) -> str:
        """A new key's text."""
        text = generate()
        key_id = parse(text)
        assert key_id is not None
        holder = Principal(key_id, "tester", frozenset(scopes), None if pipelines is None else frozenset(pipelines))
        self.stored[key_id] = StoredKey(holder, hash_of(text), expires_at)
        return text

    def revoke(self, text: str) -> None:
        del self.stored[parse(text) or ""]

    def load(self) -> Reading:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return Reading(self.at, dict(self.stored))


class Item(BaseModel):
    """What the test routes take."""

    model_config = ConfigDict(extra="forbid")

    count: int
    weight: float = 0
    label: str = ""
    extra: dict[str, Any] = {}


class Seen(BaseModel):
    """What the test routes answer."""

    caller: str
    item: Item | None = None

    @classmethod
    def by(cls, request: Request, item: Item | None = None) -> Self:
        return cls(caller=principal(request).name, item=item)


router = GuardedRouter(prefix="/v1")


@router.get("/things", dependencies=[requires(Scope.READ)])
def list_things(request: Request, q: str = "", n: Annotated[int | None, Query(le=2**31 - 1)] = None) -> Seen:
    return Seen.by(request)


@router.post("/pipelines/{p}/items", dependencies=[requires(Scope.INGEST)])
def add_item(p: str, item: Item, request: Request) -> Seen:
    return Seen.by(request, item)


@router.post("/pipelines/{pipeline}/raw", dependencies=[requires(Scope.INGEST, upload=True)])
async def raw(pipeline: str, request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@router.post("/parsed", dependencies=[requires(Scope.PREDICT)])
async def parsed(request: Request) -> dict[str, str]:
    return {"kind": type(await request.json()).__name__}


@router.get("/nan", dependencies=[requires(Scope.READ)])
def not_a_number() -> dict[str, float | None]:
    return {"value": float("nan"), "infinite": float("inf")}


@router.get("/fails", dependencies=[requires(Scope.READ)])
def fails() -> None:
    raise ZeroDivisionError("secret detail")


def make_settings(**values: Any) -> CommonSettings:
    return CommonSettings(
        database_url="postgresql://relevo:pw@127.0.0.1:1/relevo",
        redis_url="redis://127.0.0.1:1/0",
        prediction_secret="p" * 40,
        service_key=generate(),
        **values,
    )


def build(keys: Keys, **options: Any) -> FastAPI:
    """An app as a service makes it, over the given keys."""
    settings = options.pop("settings", None) or make_settings(
        body_limit_bytes=2000, upload_limit_bytes=5000, body_timeout_s=5
    )
    return make_app(
        service="test",
        title="Test",
        description="An app for tests.",
        settings=settings,
        sessions=options.pop("sessions", sessionmaker(class_=Session)),
        routers=[router, *options.pop("routers", [])],
        checks=options.pop("checks", {}),
        keys=KeyRing(keys.load, offline_age_s=3600),
        **options,
    )


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The app with its lifespan open, and a client for it."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def admin(keys: Keys) -> str:
    return keys.add(*ADMIN)


@pytest.fixture
def quiet_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The lifespan would configure the process's logging; here log records are collected instead."""
    monkeypatch.setattr("shared.web.app.configure_logging", lambda *_: None)
    with capture_logs() as records:
        yield records


@pytest.fixture
async def client(keys: Keys, admin: str, quiet_logging: list[Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the small app, with the admin key in every request."""
    async with running(build(keys)) as opened:
        opened.headers.update(bearer(admin))
        yield opened
