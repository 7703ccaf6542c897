"""Celery entry of serving's worker: `celery -A services.serving.worker worker -Q precompute --pool solo`."""

from services.serving.config import ServingSettings
from services.serving.offline.schedule import start_ticking
from services.serving.tasks import install
from shared.artifacts import open_store
from shared.config import common_settings
from shared.messaging import make_celery
from shared.registry.session import make_sessions, open_engine
from shared.scratch import sweep

_common = common_settings()
_sessions = make_sessions(open_engine(_common.sqlalchemy_url, pool_size=3, application="relevo-serving-worker"))
sweep()

app = make_celery("serving", _common)
install(app, _sessions, open_store(_common.artifacts_url), _common, ServingSettings())
start_ticking(app, _sessions, every_s=_common.sweep_s)
