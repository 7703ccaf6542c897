"""API keys in a real registry: made, listed, revoked, honoured; and the routes over them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlmodel import Session

from shared.config import CommonSettings
from shared.contracts.scopes import ADMIN, Scope
from shared.errors import Forbidden, Invalid, NotFound, Unauthenticated
from shared.keyring import KeyRing, read_from
from shared.keys import Principal, create_key, ensure_key, generate, list_keys, parse, revoke_key
from shared.registry.session import Sessions
from shared.registry.tables.access import ApiKey
from shared.web import key_routes
from shared.web.app import make_app

ADMIN_HOLDER = Principal("0" * 12, "root", ADMIN)


def _ring(sessions: Sessions) -> KeyRing:
    return KeyRing(read_from(sessions), offline_age_s=60)


def _make(session: Session, *scopes: Scope, pipelines: list[str] | None = None) -> tuple[ApiKey, str]:
    return create_key(session, name="k", scopes=scopes, by=ADMIN_HOLDER, pipelines=pipelines)


def test_a_made_key_is_honoured_until_it_is_revoked(sessions: Sessions) -> None:
    with sessions.begin() as session:
        row, key = _make(session, Scope.READ, pipelines=["flights"])
    ring = _ring(sessions)
    ring.refresh()
    holder = ring.check(key, Scope.READ)
    assert (holder.key_id, holder.pipelines) == (row.id, frozenset({"flights"}))
    with sessions.begin() as session:
        first = revoke_key(session, row.id, ADMIN_HOLDER).revoked_at
    with sessions.begin() as session:
        assert revoke_key(session, row.id, ADMIN_HOLDER).revoked_at == first
    ring.refresh()
    with pytest.raises(Unauthenticated):
        ring.check(key, Scope.READ)


def test_the_secret_is_nowhere_in_the_registry(sessions: Sessions) -> None:
    with sessions.begin() as session:
        _, key = _make(session, Scope.READ)
    with sessions.begin() as session:
        stored = session.execute(text("select api_keys::text from api_keys")).scalar_one()
    assert key.split("_", 2)[2] not in stored


def test_a_key_grants_no_more_than_its_maker_holds(sessions: Sessions) -> None:
    maker = Principal("1" * 12, "limited", frozenset({Scope.KEYS, Scope.READ}), frozenset({"flights"}))
    with sessions.begin() as session:
        create_key(session, name="k", scopes=[Scope.READ], by=maker, pipelines=["flights"])
        for scopes, pipelines in (([Scope.DEPLOY], ["flights"]), ([Scope.READ], ["other"]), ([Scope.READ], None)):
            with pytest.raises(Forbidden):
                create_key(session, name="k", scopes=scopes, by=maker, pipelines=pipelines)


def test_a_key_revokes_no_more_than_it_holds(sessions: Sessions) -> None:
    weak = Principal("1" * 12, "weak", frozenset({Scope.KEYS, Scope.READ}))
    limited = Principal("2" * 12, "limited", ADMIN, frozenset({"flights"}))
    with sessions.begin() as session:
        strong, _ = _make(session, Scope.DEPLOY)
        with pytest.raises(Forbidden):
            revoke_key(session, strong.id, weak)
        with pytest.raises(NotFound):
            revoke_key(session, strong.id, limited)
        with pytest.raises(NotFound):
            revoke_key(session, "f" * 12, ADMIN_HOLDER)


def test_expiry_must_lie_ahead_by_the_database_clock(sessions: Sessions) -> None:
    with sessions.begin() as session:
        now = session.execute(select(func.now())).scalar_one()
        with pytest.raises(Invalid):
            create_key(session, name="k", scopes=[Scope.READ], by=ADMIN_HOLDER, expires_at=now)
        ahead = now + timedelta(hours=1)
        row, _ = create_key(session, name="k", scopes=[Scope.READ], by=ADMIN_HOLDER, expires_at=ahead)
        assert row.expires_at == ahead


def test_lists_are_newest_first_and_within_the_callers_pipelines(sessions: Sessions) -> None:
    ids = []
    for pipelines in (["a"], None, ["a", "b"], ["b"]):
        with sessions.begin() as session:
            ids.append(_make(session, Scope.READ, pipelines=pipelines)[0].id)
    with sessions.begin() as session:
        newest = [row.id for row in list_keys(session, ADMIN_HOLDER, limit=2)]
        assert newest == ids[:1:-1]
        assert [row.id for row in list_keys(session, ADMIN_HOLDER, limit=9, after=newest[-1])] == ids[1::-1]
        limited = Principal("2" * 12, "limited", ADMIN, frozenset({"a"}))
        assert [row.id for row in list_keys(session, limited, limit=9)] == ids[:1]


def test_ensure_key_is_repeatable_and_never_revives(sessions: Sessions) -> None:
    key = generate()
    for scopes in ([Scope.READ], [Scope.READ, Scope.DEPLOY]):
        with sessions.begin() as session:
            ensure_key(session, key, "services", scopes)
    ring = _ring(sessions)
    ring.refresh()
    assert ring.check(key, Scope.DEPLOY).name == "services"
    with sessions.begin() as session:
        revoke_key(session, parse(key) or "", ADMIN_HOLDER)
    with sessions.begin() as session:
        ensure_key(session, key, "services", ADMIN)
    ring.refresh()
    with pytest.raises(Unauthenticated):
        ring.check(key, Scope.READ)


def test_ensure_key_refuses_what_is_no_key(sessions: Sessions) -> None:
    with sessions.begin() as session, pytest.raises(Invalid, match="admin key must look like"):
        ensure_key(session, "changeme", "admin", ADMIN)


@pytest.fixture
async def client(relevo_env: dict[str, str], sessions: Sessions) -> AsyncIterator[httpx.AsyncClient]:
    """A service with only the key routes, and the service key as an admin key."""
    admin = generate()
    with sessions.begin() as session:
        ensure_key(session, admin, "admin", ADMIN)
    app = make_app(
        service="test",
        title="Keys",
        description="The key routes.",
        settings=CommonSettings(),
        sessions=sessions,
        routers=[key_routes.router],
        checks={},
    )
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as opened,
    ):
        opened.headers["Authorization"] = f"Bearer {admin}"
        yield opened


async def test_the_life_of_a_key_over_http(client: httpx.AsyncClient) -> None:
    made = await client.post("/v1/keys", json={"name": "reader", "scopes": ["read", "keys"], "pipelines": ["flights"]})
    assert made.status_code == 201
    key = made.json()["key"]
    mine = {"Authorization": f"Bearer {key}"}
    assert (await client.get("/v1/keys", headers=mine)).json()["items"][0]["id"] == made.json()["id"]
    assert (await client.post("/v1/keys", json={"name": "x", "scopes": ["deploy"]}, headers=mine)).status_code == 403
    listed = await client.get("/v1/keys")
    assert "key" not in listed.json()["items"][0]
    assert listed.json()["next"] is None
    page = await client.get("/v1/keys?limit=1")
    assert (await client.get(f"/v1/keys?limit=1&after={page.json()['next']}")).json()["items"][0]["name"] == "admin"
    assert (await client.post(f"/v1/keys/{made.json()['id']}/revoke")).json()["revoked_at"] is not None
    async with asyncio.timeout(30):
        while (await client.get("/v1/keys", headers=mine)).status_code != 401:  # noqa: ASYNC110 - a thread's work
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["everything"]},
        {"name": "", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "pipelines": []},
        {"name": "x", "scopes": ["read"], "pipelines": ["No Such Name"]},
        {"name": "x", "scopes": ["read"], "expires_at": "2013-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["read"], "expires_at": "2113-01-01T00:00:00"},
        {"name": "x", "scopes": ["read"], "admin": True},
    ],
)
async def test_bad_keys_are_422(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await client.post("/v1/keys", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"]


async def test_bad_ids_are_4xx(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/keys/none/revoke")).status_code == 422
    assert (await client.post("/v1/keys/0123456789ab/revoke")).status_code == 404
    assert (await client.get("/v1/keys?after=zz")).status_code == 422
    assert (await client.get("/v1/keys?after=0123456789ab")).json() == {"items": [], "next": None}
