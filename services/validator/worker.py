"""Celery entry: celery -A services.validator.worker worker -Q validate --pool solo."""

from services.validator.config import ValidatorSettings
from services.validator.serving_client import ServingClient
from services.validator.tasks import Tools, register
from services.validator.webhook import Webhook
from shared.artifacts import open_store
from shared.messaging import make_celery
from shared.registry.session import make_sessions, open_engine

_settings = ValidatorSettings()
_engine = open_engine(_settings.sqlalchemy_url, pool_size=3, application="relevo-validator-worker")

app = make_celery("validator", _settings)
register(
    app,
    Tools(
        settings=_settings,
        sessions=make_sessions(_engine),
        store=open_store(_settings.artifacts_url),
        serving=ServingClient(_settings.serving_url, _settings.service_key.get_secret_value()),
        webhook=Webhook(_settings.webhook_url.get_secret_value()) if _settings.webhook_url else None,
    ),
)
