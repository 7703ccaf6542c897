"""The validator service, composed: the only place where its clients are built."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from services.validator.config import ValidatorSettings
from services.validator.housekeeping import Housekeeper
from services.validator.routes import alerts, monitoring, validations
from shared.messaging import ping_redis
from shared.registry.session import make_sessions, open_engine, ping
from shared.web.app import make_app

DESCRIPTION = (
    "Judges model versions against the one in production, releases those that are not worse, and watches the live ones."
)


def create_app() -> FastAPI:
    """The app, from the environment's settings."""
    settings = ValidatorSettings()
    engine = open_engine(settings.sqlalchemy_url, application="relevo-validator")
    sessions = make_sessions(engine)
    housekeeper = Housekeeper(sessions, every_s=settings.monitor_s, webhook=settings.webhook_url is not None)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        housekeeper.start()
        try:
            yield
        finally:
            housekeeper.stop()
            engine.dispose()

    return make_app(
        service="validator",
        title="Relevo validator",
        description=DESCRIPTION,
        settings=settings,
        sessions=sessions,
        routers=[validations.router, alerts.router, monitoring.router],
        checks={"postgres": lambda: ping(engine)},
        # Nudges wait in the outbox while Redis is away.
        helpful_checks={"redis": lambda: ping_redis(settings.redis_url.get_secret_value())},
        lifespan=lifespan,
    )
