"""The validator's Celery tasks: each takes the id of a row, and calls one use case."""

import uuid
from dataclasses import dataclass

from celery import Celery

from services.validator import release, validate, watch, webhook
from services.validator.config import ValidatorSettings
from services.validator.serving_client import ServingClient
from shared.artifacts import ArtifactStore
from shared.contracts.tasks import TaskName
from shared.messaging import asked_to_stop
from shared.registry.session import Sessions


@dataclass(frozen=True, slots=True)
class Tools:
    """What the tasks work with, built once a process by `worker.py`."""

    settings: ValidatorSettings
    sessions: Sessions
    store: ArtifactStore
    serving: ServingClient
    webhook: webhook.Webhook | None


def register(app: Celery, tools: Tools) -> None:
    """Give the application its tasks."""
    stopping = asked_to_stop()

    @app.task(name=TaskName.VALIDATE.value)
    def judge(row_id: str) -> None:
        validate.validate(tools.sessions, tools.store, tools.settings, uuid.UUID(row_id), stopping=stopping)

    @app.task(name=TaskName.RELEASE.value)
    def take_live(row_id: str) -> None:
        release.release(tools.sessions, tools.serving, uuid.UUID(row_id), webhook=tools.webhook is not None)

    @app.task(name=TaskName.MONITOR.value)
    def monitor(row_id: str) -> None:
        watch.monitor(tools.sessions, uuid.UUID(row_id))

    @app.task(name=TaskName.DELIVER_ALERT.value)
    def deliver(row_id: str) -> None:
        webhook.deliver(tools.sessions, tools.webhook, uuid.UUID(row_id))
