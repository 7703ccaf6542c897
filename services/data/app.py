"""The data service: pipelines, events, labels, datasets. Builds its clients and nothing else; started by uvicorn's --factory."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from services.data.config import DataSettings, data_settings
from services.data.routes import datasets, pipelines, rows
from shared.artifacts import open_store
from shared.config import CommonSettings, common_settings
from shared.messaging import ping_redis
from shared.prediction_ids import PredictionIds
from shared.registry.session import make_sessions, open_engine, ping
from shared.scratch import sweep
from shared.web import key_routes
from shared.web.app import make_app

DESCRIPTION = "Pipelines, events and ground truth in; versioned train and test sets out."


def create_app(settings: CommonSettings | None = None, limits: DataSettings | None = None) -> FastAPI:
    """The ASGI application.

    Args:
        settings: by default read from the environment; so are `limits`.
    """
    settings = settings or common_settings()
    engine = open_engine(settings.sqlalchemy_url, pool_size=10, application="relevo-data")
    sessions = make_sessions(engine)
    store = open_store(settings.artifacts_url)
    redis_url = settings.redis_url.get_secret_value()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweep()
        try:
            yield
        finally:
            engine.dispose()

    app = make_app(
        service="data",
        title="Relevo data service",
        description=DESCRIPTION,
        settings=settings,
        sessions=sessions,
        routers=[pipelines.router, rows.router, datasets.router, key_routes.router],
        checks={"postgres": lambda: ping(engine), "artifacts": store.ping},
        helpful_checks={"redis": lambda: ping_redis(redis_url)},
        lifespan=lifespan,
    )
    app.state.data_settings = limits or data_settings()
    app.state.store = store
    app.state.prediction_ids = PredictionIds(settings.prediction_secret.get_secret_value())
    return app
