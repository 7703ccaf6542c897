"""Composition root of the trainer: settings, database, routes. Nothing else here constructs clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.trainer.config import TrainerSettings, trainer_settings
from services.trainer.routes import cycles, runs, schedule, versions
from services.trainer.routes.streams import Streams
from shared.messaging import ping_postgres, ping_redis
from shared.registry.session import make_sessions, open_engine
from shared.web.app import make_app

DESCRIPTION = """Retraining cycles, their schedule, training runs and the model versions that come of them.

A cycle builds a dataset, trains on it, has the model judged against the one in production, and releases it if it is not worse.
"""


def create_app(settings: TrainerSettings | None = None) -> FastAPI:
    """The trainer's app."""
    settings = settings or trainer_settings()
    engine = open_engine(settings.sqlalchemy_url, application="relevo-trainer")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = make_app(
        service="trainer",
        title="Relevo trainer",
        description=DESCRIPTION,
        settings=settings,
        sessions=make_sessions(engine),
        routers=[cycles.router, runs.router, schedule.router, versions.router],
        checks={"postgres": partial(ping_postgres, settings.database_url.get_secret_value())},
        # Requests are taken while the queue is away: their nudges wait in the outbox.
        helpful_checks={"redis": partial(ping_redis, settings.redis_url.get_secret_value())},
        lifespan=lifespan,
    )
    app.state.streams = Streams(settings.max_streams)
    return app
