"""Every failure is a problem with a stable type, a sentence and the request id."""

from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import exc as sql

from shared.contracts.scopes import Scope
from shared.errors import Conflict, IllegalMove, NotFound, RelevoError, StoreFull, TooMany, Unavailable
from shared.observability.context import request_id
from shared.web.auth import GuardedRouter, requires
from shared.web.errors import MOST_ERRORS, problem_of, refusal_of
from tests.unit.shared.web.conftest import Keys, bearer, build, running

PROBLEM = "application/problem+json"


def _dbapi(kind: type[sql.DBAPIError], orig: Exception) -> sql.DBAPIError:
    return kind("select 'secret sql'", {}, orig)


@pytest.mark.parametrize(
    ("make", "status", "slug"),
    [
        (lambda: NotFound("No such run."), 404, "not-found"),
        (lambda: Conflict("It moved."), 409, "conflict"),
        (lambda: IllegalMove("No way from a to b."), 409, "illegal-move"),
        (lambda: Unavailable("The queue is away."), 503, "unavailable"),
        (lambda: _dbapi(sql.OperationalError, psycopg.OperationalError("host=secret")), 503, "unavailable"),
        (lambda: _dbapi(sql.InterfaceError, psycopg.InterfaceError("secret")), 503, "unavailable"),
        (lambda: sql.TimeoutError("pool secret"), 503, "unavailable"),
        (lambda: psycopg.OperationalError("host=secret"), 503, "unavailable"),
        (
            lambda: _dbapi(sql.InternalError, psycopg.errors.IdleInTransactionSessionTimeout("secret")),
            503,
            "unavailable",
        ),
        (lambda: _dbapi(sql.InternalError, psycopg.errors.InFailedSqlTransaction("secret")), 500, "internal"),
        (lambda: _dbapi(sql.DataError, psycopg.DataError("secret")), 422, "invalid"),
        (lambda: _dbapi(sql.IntegrityError, psycopg.IntegrityError("secret")), 409, "conflict"),
        (lambda: psycopg.errors.UniqueViolation("secret"), 409, "conflict"),
        (lambda: KeyError("secret"), 500, "internal"),
        (lambda: RecursionError("secret"), 500, "internal"),
    ],
)
async def test_each_failure_has_its_problem(
    keys: Keys, admin: str, quiet_logging: list[Any], make: Callable[[], Exception], status: int, slug: str
) -> None:
    failing = GuardedRouter()

    @failing.get("/v1/failing", dependencies=[requires(Scope.READ)])
    def fail() -> None:
        raise make()

    async with running(build(keys, routers=[failing])) as client:
        answer = await client.get("/v1/failing", headers=bearer(admin))
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    body = answer.json()
    assert body["type"] == f"urn:relevo:problem:{slug}"
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) is (status == 503)


async def test_an_unforeseen_error_is_logged_with_its_traceback(
    client: httpx.AsyncClient, quiet_logging: list[Any]
) -> None:
    answer = await client.get("/v1/fails")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    record = next(record for record in quiet_logging if record["log_level"] == "error")
    assert record["exc_info"]
    assert (record["path"], record["error"]) == ("/v1/fails", "ZeroDivisionError")


async def test_an_unknown_path_and_method_are_problems(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, PROBLEM)
    wrong = await client.delete("/v1/things")
    assert (wrong.status_code, wrong.headers["content-type"]) == (405, PROBLEM)
    assert wrong.headers["allow"] == "GET"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/things?q=%00",
        "/v1/things?n=99999999999999999999",
        "/v1/things?n=" + "9" * 5000,
        "/v1/things?n=one",
        "/v1/things?m=1",
        "/v1/pipelines/a%00b/items",
    ],
)
async def test_bad_addresses_are_422(client: httpx.AsyncClient, path: str) -> None:
    method = "POST" if "items" in path else "GET"
    answer = await client.request(method, path)
    assert answer.status_code == 422
    said = answer.json()
    del said["request_id"]  # whose digits are anything
    assert "999" not in str(said)


async def test_a_mistyped_parameter_is_named(client: httpx.AsyncClient) -> None:
    problem = (await client.get("/v1/things?q=1&limt=5")).json()
    assert problem["errors"] == [{"loc": ["query", "limt"], "msg": "is no parameter of this route"}]
    assert problem["detail"] == "The query has a parameter that this route does not take: it takes n, q."


async def test_odd_unicode_in_an_address_is_harmless(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/things?q=%ED%A0%80%FF")).status_code == 200
    assert (await client.get("/v1/%ED%A0%80")).status_code == 404


async def test_a_flood_of_wrong_fields_is_cut(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/pipelines/a/items", json={f"f{n}": n for n in range(150)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == MOST_ERRORS
    long = await client.post("/v1/pipelines/a/items", json={"x" * 1500: 1})
    assert "x" * 250 not in long.text


async def test_nothing_ever_answers_nan(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/nan")
    assert answer.status_code == 200
    assert answer.json() == {"value": None, "infinite": None}


@pytest.mark.parametrize("kind", [Unavailable, StoreFull, TooMany])
@pytest.mark.parametrize("asked_as", ["f" * 32, 'a "quoted" one', "käse"])
@pytest.mark.parametrize("retry_after_s", [None, 7])
def test_a_refusal_that_is_ready_made_is_the_problem_byte_for_byte(
    kind: type[RelevoError], asked_as: str, retry_after_s: int | None
) -> None:
    error = kind("It is away; später again.")
    error.retry_after_s = retry_after_s
    token = request_id.set(asked_as)
    try:
        problem = problem_of(error)
    finally:
        request_id.reset(token)
    lines = b"".join(b"%b: %b\r\n" % header for header in problem.raw_headers)
    assert refusal_of(error, asked_as) == (problem.status_code, lines, problem.body)
    assert refusal_of(NotFound("No such run."), asked_as) is None
