"""Raw routes whose answers are more than JSON, and whose refusals have a form of their own."""

from typing import Any

from fastapi import Request, Response

from shared.contracts.scopes import Scope
from shared.errors import Conflict
from shared.web.auth import GuardedRouter
from shared.web.errors import last_resort
from shared.web.raw import Answer, Call, Reply, raw
from tests.unit.shared.web.conftest import Keys, bearer, build, running

router = GuardedRouter(prefix="/raw")


async def in_short(request: Request, error: Exception) -> Response:
    problem = await last_resort(request, error)
    return Response(b"no", problem.status_code, media_type="text/plain")


@raw(router, "/{p}/echo/{n}", scope=Scope.PREDICT, json_only=False, refuse=in_short, path_types={"n": int})
async def echo(call: Call) -> Answer:
    """Send the body back."""
    if not call.body:
        raise Conflict("There is nothing to echo.")
    return Reply(call.body, b"application/octet-stream", ((b"x-number", call.path["n"].encode()),))


@raw(router, "/{p}/name", scope=Scope.PREDICT, method="GET")
async def name(call: Call) -> Answer:
    """The name."""
    return b'{"name":"%b"}' % call.path["p"].encode()


async def test_a_reply_has_its_own_type_and_headers(keys: Keys, quiet_logging: list[Any]) -> None:
    mine = bearer(keys.add(Scope.PREDICT, pipelines=["trips"]))
    async with running(build(keys, routers=[router])) as client:
        answer = await client.post("/raw/trips/echo/7", content=b"\0\1", headers=mine)
        assert (answer.status_code, answer.content) == (200, b"\0\1"), "only the pipeline is held against the key"
        assert (answer.headers["content-type"], answer.headers["x-number"]) == ("application/octet-stream", "7")
        assert (await client.get("/raw/trips/name", headers=mine)).json() == {"name": "trips"}


async def test_whatever_is_refused_is_refused_in_the_routes_own_form(keys: Keys, quiet_logging: list[Any]) -> None:
    mine = bearer(keys.add(Scope.PREDICT, pipelines=["trips"]))
    refused = {
        409: ("/raw/trips/echo/7", {"headers": mine}),
        401: ("/raw/trips/echo/7", {"content": b"x"}),
        404: ("/raw/other/echo/7", {"headers": mine, "content": b"x"}),
        413: ("/raw/trips/echo/7", {"headers": mine, "content": b"x" * 3000}),
        422: ("/raw/trips/echo/7?dry=1", {"headers": mine, "content": b"x"}),
    }
    async with running(build(keys, routers=[router])) as client:
        for status, (path, options) in refused.items():
            answer = await client.post(path, **options)
            assert (answer.status_code, answer.content) == (status, b"no"), path
        assert (await client.get("/raw/other/name", headers=mine)).json()["status"] == 404, "others stay problems"
