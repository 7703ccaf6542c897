"""Celery entry of the data worker: `celery -A services.data.worker worker -Q data --pool solo`."""

from services.data.config import data_settings
from services.data.tasks import install
from shared.artifacts import open_store
from shared.config import common_settings
from shared.messaging import make_celery
from shared.registry.session import make_sessions, open_engine
from shared.scratch import sweep

_settings = common_settings()
sweep()

app = make_celery("data", _settings)
install(
    app,
    make_sessions(open_engine(_settings.sqlalchemy_url, pool_size=3, application="relevo-data-worker")),
    open_store(_settings.artifacts_url),
    _settings,
    data_settings(),
)
