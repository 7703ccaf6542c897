"""Celery entry of the trainer: `celery -A services.trainer.worker worker -Q train --pool solo`, and the same with `-Q cycles`."""

from services.trainer import tasks
from services.trainer.config import trainer_settings
from shared.messaging import make_celery
from shared.registry.session import make_sessions, open_engine

settings = trainer_settings()
engine = open_engine(settings.sqlalchemy_url, pool_size=3, application="relevo-trainer-worker")
app = make_celery("trainer", settings)
tasks.register(app, make_sessions(engine), settings)
