"""Deny by default: every route declares a scope and is authenticated before its body is read, or the app refuses to start.

    router = GuardedRouter(prefix="/v1/pipelines")

    @router.get("/{p}/runs", dependencies=[requires(Scope.READ)])
    def runs(p: str, ...): ...

    @router.post("/{p}/runs", status_code=202)
    def start(p: str, caller: Annotated[Principal, requires(Scope.TRAIN)], ...): ...

FastAPI reads and parses the body before it solves dependencies, so the declaration alone would let anyone feed the parser:
`GuardedRoute` finds the declaration when the route is built and acts on it first.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security.base import SecurityBase
from starlette.datastructures import QueryParams
from starlette.routing import BaseRoute, Mount

from shared.contracts.scopes import Scope
from shared.errors import Invalid, Unauthenticated, UnsupportedMedia
from shared.keyring import KeyRing
from shared.keys import Principal, no_such_pipeline
from shared.web.body import StrictRequest, bounded, is_json
from shared.web.errors import EVERY_ROUTE, problem_responses

PUBLIC = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics", "/docs", "/openapi.json"})
"""The only paths that answer without a key. They take no input; /metrics and /readyz show names of pipelines and counts."""
PIPELINE_PARAMETERS = ("p", "pipeline")
NEW_KEY_WAIT_S = 2.0

Headers = Iterable[tuple[bytes, bytes]]


def authenticate(headers: Headers, ring: KeyRing, scope: Scope) -> Principal:
    """Who sent these headers, if the key is good for the scope. Plain and fast, for raw ASGI routes too.

    Args:
        headers: as in an ASGI scope: lower-case names, bytes.

    Raises:
        Unauthenticated, Forbidden, Unavailable: as `KeyRing.check`.
    """
    return ring.check(bearer_key(headers), scope)


async def authenticate_new(headers: Headers, ring: KeyRing, scope: Scope) -> Principal:
    """As `authenticate`, but a key the ring does not know yet is looked for once before it is refused."""
    text = bearer_key(headers)
    if ring.may_be_new(text):
        # Without an answer in time, what the ring knows decides.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEW_KEY_WAIT_S):
                await asyncio.shield(asyncio.wrap_future(ring.refreshed()))
    return ring.check(text, scope)


def bearer_key(headers: Headers) -> str:
    """The key text of the one `Authorization: Bearer` header.

    Raises:
        Unauthenticated: no such header, several, or another scheme.
    """
    given = [value for name, value in headers if name == b"authorization"]
    if not given:
        raise Unauthenticated("Send an API key: Authorization: Bearer rlv_...")
    scheme, _, text = given[0].partition(b" ")
    if len(given) > 1 or scheme.lower() != b"bearer":
        raise Unauthenticated("Send exactly one Authorization header, of the form: Bearer rlv_...")
    return text.strip().decode("latin-1")


class Requirement(SecurityBase):
    """The declaration that a route needs a scope; in OpenAPI, the bearer scheme. As a dependency it gives the principal."""

    model = HTTPBearerModel(bearerFormat="rlv_<id>_<secret>", description="An API key; `relevo keys` makes them.")
    scheme_name = "ApiKey"

    def __init__(self, scope: Scope, *, upload: bool) -> None:
        self.scope = scope
        self.upload = upload

    async def __call__(self, request: Request) -> Principal:
        """Return the caller; the guard checked it long before."""
        return principal(request)


def requires(scope: Scope, *, upload: bool = False) -> Any:
    """Declare the scope of a route: in `dependencies=[...]`, or as `Annotated[Principal, requires(...)]`.

    Args:
        upload: allow bodies up to `RELEVO_UPLOAD_LIMIT_BYTES` instead of `RELEVO_BODY_LIMIT_BYTES`.
    """
    return Depends(Requirement(scope, upload=upload))


def principal(request: Request) -> Principal:
    """The caller of a guarded route."""
    found = request.state.principal
    assert isinstance(found, Principal)
    return found


class GuardedRoute(APIRoute):
    """A route that authenticates, then bounds and parses the body, then does what FastAPI does."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["responses"] = {**problem_responses(*EVERY_ROUTE), **(options.get("responses") or {})}
        super().__init__(path, endpoint, **options)
        scopes = ", ".join(f"`{requirement.scope}`" for requirement in self.requirements)
        self.description = f"{self.description}\n\nScope: {scopes}".strip()

    @property
    def requirements(self) -> Sequence[Requirement]:
        """What the route itself declares (what `include_router` adds is not seen, and does not count)."""
        return tuple(_requirements(self.dependant))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()
        requirements = self.requirements
        has_body = self.body_field is not None
        upload = any(requirement.upload for requirement in requirements)
        parameters = frozenset(_parameters(self.dependant))

        async def guarded(request: Request) -> Response:
            if not requirements:
                raise RuntimeError("a route without a declared scope was called")
            state = request.app.state
            for requirement in requirements:
                caller = await authenticate_new(request.scope["headers"], state.keys, requirement.scope)
            request.state.principal = caller
            _check_path(request, caller)
            check_query(request.query_params, parameters)
            limit = state.settings.upload_limit_bytes if upload else state.settings.body_limit_bytes
            receive = bounded(
                request.scope, request.receive, limit_bytes=limit, timeout_s=state.settings.body_timeout_s
            )
            strict = StrictRequest(request.scope, receive, request._send)
            if has_body and await strict.body():
                if not is_json(request.headers.get("content-type", "")):
                    raise UnsupportedMedia("Send the body as JSON: Content-Type: application/json.")
                await strict.json()
            return await handle(strict)

        return guarded


class GuardedRouter(APIRouter):
    """An APIRouter all of whose routes are guarded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=GuardedRoute, redirect_slashes=False, **options)


def assert_guarded(app: FastAPI) -> None:
    """Refuse to start with a route that neither declares a scope nor is public.

    Raises:
        RuntimeError: names every such route.
    """
    open_routes = sorted(_open_routes(app.routes, ""))
    # FastAPI keeps what `app.frontend()` serves apart from `app.routes`.
    open_routes += ["a frontend folder" for _ in app.router._iter_low_priority_routes()]
    if open_routes:
        raise RuntimeError(
            f"routes without an auth declaration: {', '.join(open_routes)}; "
            "add dependencies=[requires(Scope....)] to each, on a GuardedRouter"
        )


def _open_routes(routes: Sequence[BaseRoute], prefix: str) -> Iterator[str]:
    for context in iter_route_contexts(routes):
        route, path = context.original_route, prefix + (context.path or "")
        if isinstance(route, Mount):
            inner = getattr(route.app, "routes", None)
            if inner is None:
                yield f"{path} (an opaque mounted app)"
            else:
                yield from _open_routes(inner, path)
        elif isinstance(route, GuardedRoute):
            if not route.requirements:
                yield f"{','.join(sorted(route.methods or ()))} {path}"
        elif path not in PUBLIC:
            yield f"{','.join(sorted(getattr(route, 'methods', None) or ('?',)))} {path}"


def _requirements(dependant: Dependant) -> Iterator[Requirement]:
    if isinstance(dependant.call, Requirement):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _requirements(inner)


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _check_path(request: Request, caller: Principal) -> None:
    if "\x00" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        raise Invalid("The address holds the NUL character.")
    for name in PIPELINE_PARAMETERS:
        if (value := request.path_params.get(name)) is not None and not caller.allows_pipeline(value):
            raise no_such_pipeline()


def check_query(given: QueryParams, parameters: Collection[str]) -> None:
    """Refuse parameters that the route does not have: a mistyped `dry_run` must not do the thing.

    Raises:
        Invalid: names them.
    """
    if unknown := sorted(given.keys() - set(parameters)):
        raise Invalid(
            f"The query has a parameter that this route does not take: it takes {', '.join(sorted(parameters)) or 'none'}.",
            errors=[{"loc": ["query", name], "msg": "is no parameter of this route"} for name in unknown],
        )


__all__ = [
    "PUBLIC",
    "GuardedRoute",
    "GuardedRouter",
    "Requirement",
    "assert_guarded",
    "authenticate",
    "authenticate_new",
    "check_query",
    "principal",
    "requires",
]
