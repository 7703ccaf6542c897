"""Celery tasks of the trainer: each looks at one row and calls one use case."""

import uuid

from celery import Celery

from services.trainer.config import TrainerSettings
from services.trainer.cycles import advance
from services.trainer.peers import Peer, Peers
from services.trainer.supervise import train
from shared.contracts.tasks import TaskName
from shared.messaging import asked_to_stop
from shared.registry.session import Sessions


def open_peers(settings: TrainerSettings) -> Peers:
    """The data service and the validator, by the settings' addresses."""
    key = settings.service_key.get_secret_value()
    return Peers(
        Peer("data", settings.data_url, key, timeout_s=settings.peer_timeout_s),
        Peer("validator", settings.validator_url, key, timeout_s=settings.peer_timeout_s),
    )


def register(app: Celery, sessions: Sessions, settings: TrainerSettings) -> None:
    """Give the application its tasks."""
    peers = open_peers(settings)
    stopping = asked_to_stop()

    @app.task(name=TaskName.ADVANCE_CYCLE.value)
    def advance_cycle(cycle_id: str) -> None:
        advance(sessions, peers, uuid.UUID(cycle_id))

    @app.task(name=TaskName.TRAIN.value)
    def train_one(run_id: str) -> None:
        train(sessions, settings, uuid.UUID(run_id), stopping=stopping)
