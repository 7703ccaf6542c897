"""Routes from bytes to bytes, for what must be fast: guarded, documented and measured as any other, without the framework.

    @raw(router, "/predict", scope=Scope.PREDICT, response_model=Answer, openapi_extra=...)
    async def predict(call: Call) -> bytes: ...

Middleware, dependency solving and response models cost several times what a small prediction does. The app sends a request for
such a route straight to `RawRoute.serve`; the checks, their order and their answers are those of `GuardedRoute`.
"""

import re
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import Any, Protocol

import structlog
from fastapi import Request, Response
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from shared.contracts.scopes import Scope
from shared.errors import Invalid, UnsupportedMedia
from shared.ids import new_id_number
from shared.keyring import KeyRing
from shared.keys import Principal, no_such_pipeline
from shared.observability.context import accept_request_id, request_id
from shared.spec.types import Name
from shared.web.auth import PIPELINE_PARAMETERS, GuardedRoute, GuardedRouter, authenticate_new, check_query, requires
from shared.web.body import as_length, is_json, read_body
from shared.web.errors import last_resort, refusal_of
from shared.web.meter import Meter

log = structlog.stdlib.get_logger(__name__)

JSON = b"application/json"
_NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_PARAMETERS: Mapping[str, str] = {}
NOBODY = Principal("", "", frozenset(), frozenset())


@dataclass(slots=True)
class Call:
    """One request; a handler gets it past the guard."""

    app: Any
    """The app, for its `state`."""
    id: int
    """A new id of this request, as `shared.ids.new_id_number` makes them."""
    request_id: str
    """What the caller calls the request, or the new id in hex."""
    path: Mapping[str, str]
    """Path parameters."""
    headers: Mapping[bytes, bytes]
    """By lower-case name; of one given twice, the last."""
    caller: Principal = NOBODY
    body: bytes = b""
    method: str = "POST"
    began_s: float = field(default_factory=time.perf_counter)
    """When it was received, by `time.perf_counter`."""
    query: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)
    """The query's parameters, only those that the route takes."""

    @property
    def received_us(self) -> int:
        """When it was received, epoch microseconds, to the millisecond: the time in its id."""
        return (self.id >> 80) * 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is not plain JSON, or that has headers of its own."""

    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Answer = bytes | Reply
"""JSON bytes, or more."""
Handler = Callable[[Call], Awaitable[Answer]]
"""Answers, or raises a RelevoError."""
Refuse = Callable[[Request, Exception], Coroutine[Any, Any, Response]]
"""The response that an exception is; it never waits for anything."""


def plain_headers(call: Call) -> tuple[tuple[bytes, bytes], ...]:
    """What every answer of a raw route says at the end of its headers."""
    return (b"x-request-id", call.request_id.encode()), _NOSNIFF


class Waiting(Protocol):
    """Whom an express handler answers: exactly one of the two, once, on the event loop."""

    def answer(self, answer: Answer) -> None:
        """The answer."""

    def refuse(self, error: Exception) -> None:
        """Why there is none."""


Express = Callable[[Call, Waiting], bool]
"""Begins to answer a call whose key is good. False, with nothing done: it has to be looked at by the route's handler."""


class RawRoute(GuardedRoute):
    """The route. The endpoint's attribute `handler` is what answers; the endpoint itself carries the documentation."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._handler: Handler = endpoint.handler  # type: ignore[attr-defined]
        self._refuse: Refuse = endpoint.refuse  # type: ignore[attr-defined]
        self.express: Express | None = endpoint.express  # type: ignore[attr-defined]
        """The short way to the same answers; see `shared.web.express`."""
        self._json_only: bool = endpoint.json_only  # type: ignore[attr-defined]
        super().__init__(path, endpoint, **options)
        (requirement,) = self.requirements
        self.scope: Scope = requirement.scope
        """What a caller's key must allow."""
        self._upload = requirement.upload
        self._query: frozenset[str] = endpoint.query  # type: ignore[attr-defined]
        self._meters: dict[tuple[str, int], Meter] = {}

    async def serve(self, scope: AsgiScope, receive: Receive, send: Send, path: Mapping[str, str]) -> None:
        """Answer a request for this route, from its first to its last byte.

        Args:
            path: path parameters.
        """
        number, headers = new_id_number(), dict(scope["headers"])
        given = headers.get(b"x-request-id")
        asked_as = number.to_bytes(16).hex() if given is None else accept_request_id(given.decode("latin-1"))
        call = Call(scope["app"], number, asked_as, path, headers, method=scope["method"])
        try:
            answer = await self._answer(call, scope, receive)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - answered as a problem
            await self.refuse(call, scope, send, error)
            return
        reply = Reply(answer) if isinstance(answer, bytes) else answer
        described = [
            (b"content-type", reply.content_type),
            *reply.headers,
            (b"content-length", b"%d" % len(reply.body)),
        ]
        await self._send(call, send, 200, described, reply.body)

    async def refuse(self, call: Call, scope: AsgiScope, send: Send, error: Exception) -> None:
        """Answer a request with what an exception is."""
        response = self.problem(call, scope, error)
        await self._send(call, send, response.status_code, response.raw_headers, bytes(response.body))

    def problem(self, call: Call, scope: AsgiScope, error: Exception) -> Response:
        """The response that an exception is: the last resort, which also logs what nobody foresaw."""
        token = request_id.set(call.request_id)
        try:
            self._refuse(Request(scope), error).send(None)
        except StopIteration as done:
            response: Response = done.value
            return response
        finally:
            request_id.reset(token)
        raise RuntimeError("what makes a problem of an exception never waits")

    def refusal(self, call: Call, error: Exception) -> tuple[int, bytes, bytes] | None:
        """The status, lines of the head and body of `problem` for an error that is ready made; None for any other."""
        return refusal_of(error, call.request_id) if self._refuse is last_resort else None

    async def _send(self, call: Call, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        headers += plain_headers(call)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.measure(call, status, as_length(call.headers.get(b"content-length", b"")), len(body))

    def get_route_handler(self) -> Callable[[Request], Any]:
        """For a request that came through the router after all, with the middleware around it."""

        async def handle(request: Request) -> Response:
            call = Call(request.app, new_id_number(), request_id.get(), request.path_params, dict(request.headers.raw))
            try:
                answer = await self._answer(call, request.scope, request.receive)
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 - the last resort: it is logged, and answered as a problem
                return self.problem(call, request.scope, error)
            reply = Reply(answer) if isinstance(answer, bytes) else answer
            headers = {name.decode(): value.decode() for name, value in reply.headers}
            return Response(reply.body, media_type=reply.content_type.decode(), headers=headers)

        return handle

    async def _answer(self, call: Call, scope: AsgiScope, receive: Receive) -> Answer:
        state, headers = call.app.state, call.headers
        ring: KeyRing = state.keys
        authorization = headers.get(b"authorization", b"")
        caller = ring.recognised(authorization, self.scope)
        # A header given twice shows by the lengths; the whole check then refuses it.
        if caller is None or len(headers) != len(scope["headers"]):
            caller = await authenticate_new(scope["headers"], ring, self.scope)
            ring.remember(authorization, self.scope, caller)
        call.caller = caller
        if scope["query_string"] or call.path:
            _check_address(call, scope, self._query)
        settings = state.settings
        limit = settings.upload_limit_bytes if self._upload else settings.body_limit_bytes
        declared = as_length(headers.get(b"content-length", b""))
        call.body = await read_body(receive, declared, limit_bytes=limit, timeout_s=settings.body_timeout_s)
        kind = headers.get(b"content-type", b"")
        if self._json_only and kind != JSON and not is_json(kind.decode("latin-1")):
            raise UnsupportedMedia("Send the body as JSON: Content-Type: application/json.")
        return await self._handler(call)

    def measure(self, call: Call, status: int, received_bytes: int, sent_bytes: int) -> None:
        """Count an answered request as those of all other routes are counted."""
        seconds = time.perf_counter() - call.began_s
        meter = self._meters.get((call.method, status))
        if meter is None:
            meter = self._meters[(call.method, status)] = Meter(call.method, status, self.path)
        meter.count(seconds, received_bytes, sent_bytes)


def _check_address(call: Call, scope: AsgiScope, parameters: Collection[str]) -> None:
    if scope["query_string"]:
        call.query = QueryParams(scope["query_string"])
        check_query(call.query, parameters)
    if "\x00" in scope["path"]:
        raise Invalid("The address holds the NUL character.")
    for name in PIPELINE_PARAMETERS:
        if (value := call.path.get(name)) is not None and not call.caller.allows_pipeline(value):
            raise no_such_pipeline()


def raw(
    router: GuardedRouter,
    path: str,
    *,
    scope: Scope,
    method: str = "POST",
    json_only: bool = True,
    refuse: Refuse = last_resort,
    path_types: Mapping[str, Any] = NO_PARAMETERS,
    query: Mapping[str, Any] = NO_PARAMETERS,
    express: Express | None = None,
    **options: Any,
) -> Callable[[Handler], Handler]:
    """Declare a raw route, with the handler's name and docstring as its documentation.

    Args:
        router: where it belongs.
        scope: what the caller's key must allow.
        json_only: refuse a body that is not declared as JSON; else the handler looks at what came.
        refuse: how an exception is answered; by default as a problem.
        query: the query's parameters, all optional, with their types; the handler reads the texts in `Call.query`.
        path_types: path parameters that are documented as another type than a pipeline's name.
        express: a short way to the same answers for JSON by POST; it checks whether the caller may use the pipeline in the path.
        options: as FastAPI's `add_api_route` takes them: response_model, openapi_extra, responses.
    """

    def declare(handler: Handler) -> Handler:
        async def documented() -> None:
            raise RuntimeError("a raw route's endpoint is never called")

        documented.__name__, documented.__doc__ = handler.__name__, handler.__doc__
        documented.handler, documented.refuse = handler, refuse  # type: ignore[attr-defined]
        documented.express = express  # type: ignore[attr-defined]
        documented.json_only = json_only and method != "GET"  # type: ignore[attr-defined]
        parameters = [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=path_types.get(name, Name))
            for name in re.findall(r"{(\w+)(?::\w+)?}", path)
        ]
        parameters += [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=None) for name, kind in query.items()
        ]
        documented.query = frozenset(query)  # type: ignore[attr-defined]
        documented.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        router.add_api_route(
            path, documented, methods=[method], dependencies=[requires(scope)], route_class_override=RawRoute, **options
        )
        return handler

    return declare
