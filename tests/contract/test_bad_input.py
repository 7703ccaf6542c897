"""Every route of every service, given everything that is wrong: a clear 4xx problem, never a 5xx, and nothing is stored.

The services' own tests go deeper into the rows they read; this walk is to leave no route out.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from services.data.app import create_app as data_app
from services.serving.app import create_app as serving_app
from services.trainer.app import create_app as trainer_app
from services.trainer.config import TrainerSettings
from services.validator.app import create_app as validator_app
from shared.config import CommonSettings
from shared.instances import epoch_us
from shared.registry.session import Sessions
from shared.web.auth import GuardedRoute
from tests.contract.world import ADMIN_KEY, NAME, NOTHING_KEY, World, trip, trip_event
from tests.unit.data.samples import SPEC, at, iso

LIMIT_BYTES, UPLOAD_LIMIT_BYTES = 100_000, 200_000
P = "/v1/pipelines/{p}"
FEEDBACK = {"model": NAME, "key": "t0001", "label": 1, "source": "explicit", "time": iso(30), "available_at": iso(30)}
INFER = {
    "id": "r",
    "parameters": {"binary_data_output": False},
    "inputs": [
        {"name": "booked", "datatype": "INT64", "shape": [1], "data": [epoch_us(at(40))]},
        {"name": "began", "datatype": "INT64", "shape": [1], "data": [epoch_us(at(40))]},
        {"name": "embedding", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1]},
    ],
    "outputs": [{"name": "score", "parameters": {"binary_data": True}}],
}
BODIES: dict[str, dict[str, Any]] = {
    "data": {
        "POST /v1/pipelines": {**SPEC, "description": "again"},
        f"POST {P}/events": [trip_event()],
        f"POST {P}/labels": [{name: value for name, value in FEEDBACK.items() if name != "model"}],
        f"POST {P}/datasets": {"as_of": iso(31)},
        "POST /v1/keys": {"name": "shop", "scopes": ["read"], "pipelines": [NAME], "expires_at": "2090-01-01T00:00:00Z"},
    },
    "trainer": {
        f"POST {P}/cycles": {"as_of": iso(31)},
        f"POST {P}/runs": {"dataset": 1},
        f"PUT {P}/schedule": {"cron": "0 4 * * 1", "paused": True},
    },
    "validator": {
        f"POST {P}/validations": {"candidate": 2, "baseline": 1},
        f"POST {P}/validations/{{id}}/approve": {"reason": "looks right"},
        f"POST {P}/validations/{{id}}/reject": {"reason": "looks wrong"},
    },
    "serving": {
        "POST /predict": {"model": NAME, "instances": [trip()], "version": 1},
        "POST /v1/models/{p}/predict": {"instances": [trip()], "version": 1},
        "POST /feedback": [FEEDBACK],
        "POST /admin/models/{p}/promote": {
            "version": 2, "expected_generation": 1, "reason": "r", "override": "o", "effective_at": iso(31),
        },
        "POST /admin/models/{p}/rollback": {"reason": "r", "expected_generation": 2, "effective_at": iso(31)},
        "POST /admin/models/{p}/canary": {
            "version": 2, "weight": 0.5, "expected_generation": 3, "reason": "r", "override": "o", "effective_at": iso(31),
        },
        "POST /admin/models/{p}/shadow": {
            "version": 2, "sample": 0.5, "expected_generation": 4, "reason": "r", "effective_at": iso(31),
        },
        "PUT /admin/models/{p}/postprocessing": {
            "stages": [{"type": "clip", "low": 0.1}], "expected_number": 0, "reason": "r",
        },
        "POST /admin/models/{p}/removals": {"items": ["t0001"], "field": "trip", "reason": "r"},
        "POST /admin/models/{p}/removals/reinstate": {"items": ["t0001"], "field": "trip", "reason": "r"},
        "POST /v1/models/{p}/precompute": {"dataset": 1, "split": "test"},
        "POST /v1/models/{p}/predictions": {"instances": [trip()], "max_staleness_s": 3600.5},
        "POST /v1/models/{p}/rank": {"candidates": [trip()], "k": 1, "trace": True, "version": 1},
        "POST /v2/models/{p}/infer": INFER,
        "POST /v2/models/{p}/versions/{n}/infer": INFER,
        "POST /v2/repository/index": {"ready": True},
        "POST /v2/repository/models/{p}/load": {"parameters": {}},
        "POST /v2/repository/models/{p}/unload": {"parameters": {"unload_dependents": False}},
    },
}  # fmt: skip
"""A good body for each route that takes one, to be spoilt in one place at a time."""
ROWS = {f"POST {P}/events", f"POST {P}/labels", "POST /feedback"}
"""Routes that take a list and give each item a verdict of its own."""
NEEDED = {
    f"POST {P}/events": {"trip", "began", "booked", "embedding"},
    f"POST {P}/labels": {"label"},
    "POST /feedback": {"label"},
}
"""Fields that an item of a list cannot do without."""
TIMES = {"began", "booked", "time", "available_at", "label_time"}
"""Fields of rows that may be epoch microseconds, too."""
SCALARS = {"rider", "city"}
"""Entity and columns of rows: numbers and truth values are as good as texts."""
NOT_JSON = {
    "nothing": b"",
    "no JSON": b"a=1",
    "cut short": b'{"a": [1',
    "no UTF-8": b'{"a": "\xff"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "1e400": b'{"a": 1e400}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "deep nesting": b"[" * 5000 + b"]" * 5000,
    "nested beyond use": b'{"a": ' + b"[" * 90 + b"]" * 90 + b"}",
}
WRONG = {str: [7, True, [], {}, "a\0b"], int: ["one", "1", 1.5, True, [], {}, 10**30, -1, "a\0b"]}
WRONG[float] = [wrong for wrong in WRONG[int] if not isinstance(wrong, int | float)]
WRONG |= {bool: ["maybe", "true", 7, 1, [], "a\0b"], list: ["x", 7, True, {}, "a\0b"], dict: ["x", 7, [], "a\0b"]}
PATHS = {
    "p": ["Not%20A%20Name", "trips%00", "x" * 300, "nobody", "%ED%A0%80"],
    "n": ["0", "-1", "1.5", "one", "NaN", "9" * 30, "9" * 5000, "%00"],
    "id": ["1", "zzz", "00000000-0000-7000-8000-000000000000", "f" * 12, "9" * 5000, "%00"],
    "key": ["nobody", "x" * 300, "%00", "..%2F..", "%ED%A0%80"],
    "split": ["other", "TRAIN", "%00", "..%2Ftrain"],
}
QUERIES = ["", "%00", "NaN", "1e400", "9" * 400, "-1", "x", "%ED%A0%80", "2013-02-30", "[]"]
FREE = {("after", "9" * 400), ("threshold", "-1")}
FREE_HEADERS = {"x-relevo-assignment-key"}
"""Headers that take any text."""
PROBLEM = "application/problem+json"
ALWAYS_CONFLICT = ("/reject", "/unload")
"""Ends of paths whose good body meets a state that does not allow it."""


def of_protocol(operation: str) -> bool:
    """Whether it is of the Open Inference Protocol, whose errors have a form of their own."""
    return operation.split(" ")[1].startswith("/v2")


class Walk:
    """A service under test, and what it got wrong so far."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient, world: World, bodies: dict[str, Any]) -> None:
        self.app, self.client, self.world, self.bodies = app, client, world, bodies
        self.operations: dict[str, dict[str, Any]] = {
            f"{method.upper()} {path}": operation
            for path, routes in app.openapi()["paths"].items()
            for method, operation in routes.items()
            if "security" in operation
        }
        self.wrong: list[str] = []
        self.sent = 0

    async def send(self, operation: str, *, path: str = "", body: Any = None, **options: Any) -> httpx.Response:
        """One request of an operation: by default to the known path with its good body."""
        method, template = operation.split(" ")
        good = self.bodies.get(operation)
        if "content" not in options and (body is not None or good is not None):
            options["content"] = json.dumps(good if body is None else body).encode()
        headers = {"Content-Type": "application/json"} if "content" in options else {}
        options["headers"] = {"Authorization": f"Bearer {ADMIN_KEY}", **headers, **options.get("headers", {})}
        self.sent += 1
        return await self.client.request(method, path or self.world.path(template), **options)

    def needed(self, operation: str) -> dict[str, bool]:
        """Fields that the document requires of the body, and whether they may be null."""
        schema = self.operations[operation]["requestBody"]["content"]["application/json"]["schema"]
        if "$ref" in schema:
            schema = self.app.openapi()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        properties = schema.get("properties", {})
        return {
            name: {"type": "null"} in properties.get(name, {}).get("anyOf", []) for name in schema.get("required", [])
        }

    async def refused(self, what: str, operation: str, *statuses: int, field: str = "", **options: Any) -> None:
        """The request must be answered by a problem with one of these statuses, naming the field."""
        answer = await self.send(operation, **options)
        if of_protocol(operation):
            said = answer.json() if answer.headers.get("content-type") == "application/json" else {}
            wanted = {400 if status == 422 else status for status in statuses} | ({400} if 404 in statuses else set())
            if answer.status_code not in wanted or list(said) != ["error"] or field not in said["error"]:
                self.wrong.append(f"{operation}: {what}: {answer.status_code} {answer.text[:300]}")
            return
        said = answer.json() if answer.headers.get("content-type") == PROBLEM else {}
        named = not field or said.get("status") != 422 or any(field in error["loc"] for error in said.get("errors", []))
        good = answer.status_code in statuses and {"type", "title", "status", "detail", "request_id"} <= said.keys()
        if not (good and said["detail"] and named):
            self.wrong.append(f"{operation}: {what}: {answer.status_code} {answer.text[:300]}")


@contextlib.asynccontextmanager
async def walking(service: str, world: World) -> AsyncIterator[Walk]:
    """The service in this process, with everything its own start brings."""
    common = CommonSettings()
    make = {
        "data": lambda: data_app(common),
        "trainer": lambda: trainer_app(TrainerSettings()),
        "validator": validator_app,
        "serving": lambda: serving_app(common),
    }
    app = make[service]()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=f"http://{service}", timeout=60) as client,
    ):
        async with asyncio.timeout(60):
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - a model loads in another thread
                await asyncio.sleep(0.05)
        yield Walk(app, client, world, BODIES[service])


@pytest.fixture(params=BODIES)
async def walk(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Walk]:
    """Each service in turn, with small limits."""
    monkeypatch.setenv("RELEVO_BODY_LIMIT_BYTES", str(LIMIT_BYTES))
    monkeypatch.setenv("RELEVO_UPLOAD_LIMIT_BYTES", str(UPLOAD_LIMIT_BYTES))
    async with walking(request.param, world) as started:
        yield started


def stored(sessions: Sessions) -> dict[str, int]:
    """Rows of every table but quarantine, and the generation of the deployment."""
    with sessions.begin() as session:
        tables = session.scalars(
            text(
                "select table_name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'"
            )
        ).all()
        counts = {table: session.scalar(text(f'select count(*) from "{table}"')) or 0 for table in tables}
        counts["generation"] = session.scalar(text("select sum(generation) from deployments")) or 0
        counts["cancelled"] = session.scalar(text("select count(*) from runs where cancel_requested")) or 0
        counts["decided"] = session.scalar(text("select count(*) from validations where decided_by is not null")) or 0
        counts["revoked"] = session.scalar(text("select count(*) from api_keys where revoked_at is not null")) or 0
    return {table: count for table, count in counts.items() if table != "quarantine"}


def fits(name: str, value: Any) -> bool:
    """Whether a value of another type is a good one for this field of a row."""
    if name in SCALARS:
        return type(value) in (int, bool)
    return (name in TIMES and type(value) is int) or (name in ("label", "late") and value is True)


def spoilt(
    good: dict[str, Any], needed: Mapping[str, bool], *, row: bool = False
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is wrong, the field it is about, and the object with that one fault."""
    for name, value in good.items():
        for wrong in WRONG[type(value)]:
            if not (row and fits(name, wrong)):
                yield f"{name} = {wrong!r}", name, {**good, name: wrong}
        if name in needed:
            yield f"{name} missing", name, {other: kept for other, kept in good.items() if other != name}
            if not needed[name]:
                yield f"{name} null", name, {**good, name: None}
    yield "unknown field", "unheard_of", {**good, "unheard_of": 1}
    yield "NUL in a field name", "", {**good, "a\0": 1}


async def test_whatever_is_wrong_is_refused_and_stores_nothing(walk: Walk, sessions: Sessions) -> None:
    before = stored(sessions)
    guarded = {
        f"{method} {context.path}".replace(":path}", "}")
        for context in iter_route_contexts(walk.app.routes)
        if isinstance(context.original_route, GuardedRoute)
        for method in context.original_route.methods
    }
    assert guarded == set(walk.operations), "every guarded route is documented, and every documented one tried"
    assert set(walk.bodies) == {name for name, operation in walk.operations.items() if "requestBody" in operation}
    for name, operation in walk.operations.items():
        await wrong_callers(walk, name)
        await wrong_addresses(walk, name, operation)
        if name in walk.bodies:
            await wrong_bodies(walk, name)
            await (wrong_items if name in ROWS else wrong_fields)(walk, name)
    assert not walk.wrong, "\n".join(walk.wrong)
    assert walk.sent > 300
    assert stored(sessions) == before


async def wrong_callers(walk: Walk, name: str) -> None:
    """No key, no good key, no scope: before anything is read."""
    for key in ("", "Bearer", "Bearer ", "Basic YTpi", "Bearer rlv_dddddddddddd_" + "d" * 43, "Bearer \x7f"):
        await walk.refused(f"key {key!r}", name, 401, headers={"Authorization": key}, content=b"not even JSON")
    await walk.refused("scope", name, 403, headers={"Authorization": f"Bearer {NOTHING_KEY}"}, content=b"not even JSON")


async def wrong_addresses(walk: Walk, name: str, operation: dict[str, Any]) -> None:
    """Path and query parameters that are none, one at a time."""
    parts = name.split(" ")[1].split("/")
    for place, part in enumerate(parts):
        if part.startswith("{"):
            for value in PATHS[part[1:-1]]:
                path = walk.world.path("/".join([*parts[:place], value, *parts[place + 1 :]]))
                await walk.refused(f"{part} = {value[:40]}", name, 404, 422, path=path)
    known = walk.world.path("/".join(parts))
    await walk.refused("unknown parameter", name, 422, path=f"{known}?unheard_of=1", field="unheard_of")
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            for value in QUERIES:
                wanted = (400, 422) if (parameter["name"], value) not in FREE else (200, 404, 422)
                path = f"{known}?{parameter['name']}={value}"
                await walk.refused(f"{parameter['name']} = {value[:40]}", name, *wanted, path=path)
        elif parameter["in"] == "header" and parameter["name"].lower() not in FREE_HEADERS:
            for value in ("", " ", "a b", "x" * 300, "\x7f"):
                await walk.refused(
                    f"{parameter['name']} = {value[:40]!r}", name, 422, headers={parameter["name"]: value}
                )


async def wrong_bodies(walk: Walk, name: str) -> None:
    """Bodies that are no JSON, of another kind, or too large."""
    for what, content in NOT_JSON.items():
        if content or not (of_protocol(name) and "repository" in name):
            await walk.refused(what, name, 400, 422, content=content)
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
        "",
        "json",
    ):
        if kind or not of_protocol(name):
            await walk.refused(f"content type {kind!r}", name, 415, headers={"Content-Type": kind})
    for limit in (LIMIT_BYTES, UPLOAD_LIMIT_BYTES):
        await walk.refused(f"more than {limit} bytes", name, 413, content=b" " * (UPLOAD_LIMIT_BYTES + 1))
    for other in ("null", '"text"', "7", "true", "{}" if name in ROWS else "[]", "[[]]" if name not in ROWS else "{}"):
        await walk.refused(f"a body of {other}", name, 422, content=other.encode())


async def wrong_fields(walk: Walk, name: str) -> None:
    """One wrong field at a time."""
    good: dict[str, Any] = walk.bodies[name]
    for what, field, body in spoilt(good, walk.needed(name)):
        await walk.refused(what, name, 400, 422, field=field if body.get(field) != 10**30 else "", body=body)


async def wrong_items(walk: Walk, name: str) -> None:
    """One wrong item: it is refused with a reason that names the field, and the answer says so."""
    (good,) = walk.bodies[name]
    for what, field, item in [
        *spoilt(good, dict.fromkeys(NEEDED[name], False), row=True),
        ("no object", "", 7),
        ("empty", "", {}),
    ]:
        answer = await walk.send(name, body=[item])
        if answer.status_code in (400, 422) and answer.headers["content-type"] == PROBLEM:
            continue
        said = answer.json() if answer.status_code == 200 else {}
        refused = said.get("quarantined") or [one for one in said.get("results", []) if one["status"] == "rejected"]
        named = refused and (field in refused[0]["reason"] or field == "unheard_of")
        if not (named and refused[0]["reason"] and said["accepted"] == 0):
            walk.wrong.append(f"{name}: {what}: {answer.status_code} {answer.text[:300]}")


async def test_the_bodies_that_were_spoilt_are_good(walk: Walk) -> None:
    for name in walk.bodies:
        answer = await walk.send(name)
        assert answer.is_success or (name.endswith(ALWAYS_CONFLICT) and answer.status_code == 409), (
            f"{name}: {answer.text}"
        )
