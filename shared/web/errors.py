"""Where errors meet HTTP: every failure becomes RFC 9457 `application/problem+json` with a stable type and a sentence.

No rejected value, no stack and no text of a driver ever reaches a client; what we did not foresee is logged and answered with a
generic sentence.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson
import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy import exc as sql
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import Conflict, FieldError, Invalid, Malformed, RelevoError, TooMany, Unavailable
from shared.observability.context import request_id
from shared.spec.read import field_errors

log = structlog.stdlib.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:relevo:problem:"
HEADERS_KEPT = ("allow", "retry-after", "www-authenticate")
MOST_ERRORS = 100
"""A body with a hundred thousand wrong items gets no answer of that size."""
MOST_NAME = 200
"""Characters shown of a field name, which may be the client's invention."""
CLOSING = frozenset({408, 413})
"""The client may still be sending: the connection ends with the answer instead of reading on."""
MOST_REFUSALS = 256
"""Different ones that are kept made."""

Handler = Callable[[Request, Exception], Coroutine[Any, Any, Response]]


class FieldProblem(BaseModel):
    """One wrong field."""

    loc: list[str | int] = Field(description="Where it stands: body, query, path or header, then the way down.")
    msg: str = Field(description="What is wrong and what is expected. Never the value itself.")


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(
        description="Stable name of the kind of problem, for programs.", examples=["urn:relevo:problem:not-found"]
    )
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened here, and what to do.")
    request_id: str = Field(description="Names this request in the logs; also in the X-Request-ID header.")
    errors: list[FieldProblem] | None = Field(default=None, description="The wrong fields, when fields are wrong.")


def problem(
    status: int,
    slug: str,
    title: str,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One problem as a response; the request id comes from the context."""
    body = {**_document(status, slug, title, detail), "request_id": request_id.get()}
    if errors:
        body["errors"] = [{"loc": _short_loc(error["loc"]), "msg": error["msg"]} for error in errors[:MOST_ERRORS]]
    response = Response(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))
    if status in CLOSING:
        response.headers["connection"] = "close"
    return response


def problem_of(error: RelevoError) -> Response:
    """The problem that an error of our own tree is. Usable outside of FastAPI, on a raw ASGI route."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = 'Bearer realm="relevo"'
    return problem(error.status, error.slug, error.title, error.detail, errors=error.errors, headers=headers)


def refusal_of(error: Exception, asked_as: str) -> tuple[int, bytes, bytes] | None:
    """What `problem_of` makes of an error that many requests meet at once, without making it anew: status, lines of the head, and
    body; None for any other error.

    Args:
        asked_as: the request's id.
    """
    if not isinstance(error, TooMany | Unavailable) or error.errors:
        return None
    asked = orjson.dumps(asked_as)
    kind = error.status, error.slug, error.title
    head, begin = _refusal(kind, error.detail, error.retry_after_s, len(asked))
    return error.status, head, b"%b%b}" % (begin, asked)


@lru_cache(MOST_REFUSALS)
def _refusal(kind: tuple[int, str, str], detail: str, retry_after_s: int | None, id_bytes: int) -> tuple[bytes, bytes]:
    begin = orjson.dumps(_document(*kind, detail))[:-1] + b',"request_id":'
    retry = b"" if retry_after_s is None else b"retry-after: %d\r\n" % retry_after_s
    length = len(begin) + id_bytes + len(b"}")
    return b"%bcontent-length: %d\r\ncontent-type: %b\r\n" % (retry, length, MEDIA_TYPE.encode()), begin


def _document(status: int, slug: str, title: str, detail: str) -> dict[str, Any]:
    return {"type": TYPE_PREFIX + slug, "title": title, "status": status, "detail": detail}


def _short_loc(loc: Sequence[str | int]) -> list[str | int]:
    return [part[:MOST_NAME] if isinstance(part, str) else part for part in loc]


async def _relevo_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RelevoError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        log.error("request failed", exc_info=error)
    return problem_of(error)


async def _bad_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = field_errors(error.errors())
    if any(detail["type"] == "json_invalid" for detail in error.errors()):
        return problem_of(Malformed("The body is not valid JSON."))
    where = ".".join(map(str, _short_loc(errors[0]["loc"])))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return problem_of(Invalid(f"{where}: {errors[0]['msg']}{more}", errors=errors))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() in HEADERS_KEPT}
    detail = str(error.detail)
    if status == HTTPStatus.NOT_FOUND and detail == status.phrase:
        detail = "There is nothing at this path; /docs lists what there is."
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"This path does not take {request.method}; it takes {headers.get('Allow', 'other methods')}."
    return problem(status, status.phrase.lower().replace(" ", "-"), status.phrase, detail, headers=headers)


async def _database_away(_: Request, error: Exception) -> Response:
    log.warning("the database did not answer", error=type(error).__name__, cause=type(error.__cause__).__name__)
    return problem_of(Unavailable("The registry does not answer at the moment; try again shortly."))


async def _database_ended_session(request: Request, error: Exception) -> Response:
    if not isinstance(getattr(error, "orig", error), psycopg.errors.IdleInTransactionSessionTimeout):
        raise error
    return await _database_away(request, error)


async def _database_refused_data(_: Request, error: Exception) -> Response:
    log.info("the database refused a value", error=type(getattr(error, "orig", error)).__name__)
    return problem_of(Invalid("A value cannot be stored: it is out of range, or text that PostgreSQL cannot hold."))


async def _database_conflict(_: Request, error: Exception) -> Response:
    log.warning("an integrity rule of the database was hit", exc_info=error)
    return problem_of(Conflict("Another change came first, or a row this refers to is gone; read it again."))


async def _client_left(_: Request, __: Exception) -> Response:
    return problem_of(Malformed("The connection closed before the body was complete."))


_HANDLERS: dict[type[Exception], Handler] = {
    RelevoError: _relevo_error,
    RequestValidationError: _bad_request,
    HTTPException: _http_exception,
    ClientDisconnect: _client_left,
    sql.OperationalError: _database_away,
    sql.InterfaceError: _database_away,
    sql.TimeoutError: _database_away,
    psycopg.OperationalError: _database_away,
    sql.InternalError: _database_ended_session,
    psycopg.InternalError: _database_ended_session,
    psycopg.InterfaceError: _database_away,
    sql.DataError: _database_refused_data,
    psycopg.DataError: _database_refused_data,
    sql.IntegrityError: _database_conflict,
    psycopg.IntegrityError: _database_conflict,
}


def install(app: FastAPI) -> None:
    """Register the handlers. The last resort, `LastResortMiddleware`, is added by `make_app`."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def last_resort(request: Request, error: Exception) -> Response:
    """The problem that any exception is, as the handlers and the middleware make it; for a route outside of them."""
    handler = next((_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS), None)
    if handler is not None:
        try:
            return await handler(request, error)
        except Exception as unforeseen:  # noqa: BLE001 - a handler that passes the error on
            error = unforeseen
    return _unforeseen(request.scope, error)


def _unforeseen(scope: Scope, error: Exception) -> Response:
    log.error(
        "unforeseen error", method=scope["method"], path=scope["path"], error=type(error).__name__, exc_info=error
    )
    return problem(
        500, "internal", "Internal error", "Something went wrong on our side; the logs name it by the request id."
    )


class LastResortMiddleware:
    """Answers what no handler foresaw with a generic 500 and logs the traceback, inside the request's context.

    Starlette's own last resort stands outside of all middleware: its answer would carry no request id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass through; act only on an exception before the response began."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started:
                raise
            answer = _unforeseen(scope, error)
            await answer(scope, receive, send)


EVERY_ROUTE = (400, 401, 403, 404, 409, 413, 415, 422, 503)
"""Statuses documented on every guarded route: what authentication, the body and the database can answer anywhere."""


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` for a route: each status with a problem body."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
