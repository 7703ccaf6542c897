"""One way to make a service: guarded routes, problem+json, request ids, health, metrics, /docs. Each `app.py` calls it once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.types import Receive, Scope, Send

from shared.config import CommonSettings
from shared.keyring import KeyRing, read_from
from shared.observability.logging import configure_logging
from shared.observability.metrics import relevo_version, set_build_info
from shared.observability.worker_http import Check
from shared.registry.session import Sessions
from shared.web import errors, health
from shared.web.auth import GuardedRoute, assert_guarded
from shared.web.raw import RawRoute
from shared.web.raw_routes import RawRoutes
from shared.web.request_id import RequestIdMiddleware

Exposition = Callable[[], Awaitable[bytes]]
"""Metrics in Prometheus' text format."""
ServiceLifespan = Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FIRST_KEYS_WAIT_S = 3.0
UNMEASURED = ["^/healthz$", "^/readyz$", "^/v2/health/", "^/metrics$"]


def make_app(
    *,
    service: str,
    title: str,
    description: str,
    settings: CommonSettings,
    sessions: Sessions,
    routers: Sequence[APIRouter],
    checks: Mapping[str, Check],
    helpful_checks: Mapping[str, Check] | None = None,
    lifespan: ServiceLifespan | None = None,
    keys: KeyRing | None = None,
    exposition: Exposition | None = None,
) -> FastAPI:
    """Build a service's app.

    `app.state` carries `settings`, `sessions` and `keys`; a service adds its own in its lifespan.

    Args:
        service: the name in logs and metrics: data, trainer, validator, serving.
        routers: `GuardedRouter`s; each route declares its scope.
        checks: what /readyz asks, by name; each raises when its dependency is away, and bounds its own time.
        helpful_checks: as `checks`, but the service works on without them: /readyz stays 200 and lists them as degraded.
        lifespan: opened after the key ring runs, closed after it stopped.
        keys: the ring of API keys; by default one that reads through `sessions`.
        exposition: what /metrics answers; by default this process's metrics.

    Raises:
        RuntimeError: a route has no auth declaration.
    """
    ring = keys or KeyRing(read_from(sessions), offline_age_s=settings.keys_max_age_s)
    probe = health.ReadinessProbe(checks, helpful_checks or {})

    @contextlib.asynccontextmanager
    async def whole_life(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(settings.log_level, settings.log_format, service)
        set_build_info(service)
        assert_guarded(app)
        try:
            # So that the first requests find the keys; when the registry is away, checks and /readyz say so.
            await asyncio.wait({asyncio.wrap_future(ring.start())}, timeout=FIRST_KEYS_WAIT_S)
            async with lifespan(app) if lifespan else contextlib.nullcontext():
                try:
                    yield
                finally:
                    # Before the service disposes of its engine: a read under way would leave its connection open.
                    await asyncio.to_thread(ring.stop)
        finally:
            await asyncio.to_thread(ring.stop)
            probe.close()

    app = _App(
        title=title,
        description=description,
        version=relevo_version(),
        lifespan=whole_life,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.sessions, app.state.keys, app.state.readiness = settings, sessions, ring, probe
    errors.install(app)
    metrics = Instrumentator(should_group_status_codes=False, excluded_handlers=UNMEASURED)
    metrics.instrument(app, latency_lowr_buckets=LATENCY_BUCKETS_S)
    if exposition is None:
        metrics.expose(app, include_in_schema=False)
    else:
        app.get("/metrics", include_in_schema=False)(_answering(exposition))
    # The last one added stands outermost.
    app.add_middleware(errors.LastResortMiddleware)
    app.add_middleware(RequestIdMiddleware)
    app.include_router(health.router)
    app.router.route_class = GuardedRoute
    for router in routers:
        app.include_router(router)
    assert_guarded(app)
    app.raw = RawRoutes([route for router in routers for route in router.routes if isinstance(route, RawRoute)])
    return app


def _answering(exposition: Exposition) -> Callable[[], Awaitable[Response]]:
    async def metrics() -> Response:
        return Response(await exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return metrics


class _App(FastAPI):
    raw: RawRoutes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: a raw route is answered here, all else by FastAPI."""
        if scope["type"] == "http" and self.raw is not None and (found := self.raw.find(scope)) is not None:
            scope["app"] = self
            route, path = found
            if self.middleware_stack is None:  # the instrumentation makes its metrics with it
                self.middleware_stack = self.build_middleware_stack()
            await route.serve(scope, receive, send, path)
            return
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the problem schema that every route's error responses refer to."""
        document = super().openapi()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:
            problem = errors.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs"), Problem=problem)
        return document
