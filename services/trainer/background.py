"""The background process, `python -m services.trainer.background`: publishes nudges, sweeps dead work, starts due schedule slots.

Any number may run: the outbox is read with SKIP LOCKED, sweeps lock the rows they move, and a slot has one taker.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import psycopg
import structlog
from celery import Celery
from sqlalchemy import delete, func
from sqlalchemy.exc import OperationalError, TimeoutError  # noqa: A004 - the pool's: no connection was free in time
from sqlmodel import col

from services.trainer import cycle_repository, repository, schedule
from services.trainer.config import TrainerSettings, trainer_settings
from services.trainer.metrics import OPEN_CYCLES
from shared.contracts.tasks import OUTBOX_CHANNEL, TaskName
from shared.errors import Unavailable
from shared.jobs import outbox
from shared.jobs.sweeper import sweep
from shared.messaging import make_celery, ping_postgres, ping_redis, publish
from shared.observability.logging import configure_logging
from shared.observability.metrics import OUTBOX_PENDING, OUTBOX_PUBLISHED, set_build_info
from shared.observability.worker_http import start_worker_http
from shared.registry.session import Sessions, make_sessions, open_engine
from shared.registry.tables import IdempotencyRecord

log = structlog.get_logger(__name__)

KEEP_ANSWERS_H = 48
RETRY_S = 1.0


def dispatch_loop(
    sessions: Sessions, celery: Celery, database_url: str, stop: threading.Event, *, sweep_s: float
) -> None:
    """Publish nudges as they are written, woken by the database; every second, or `sweep_s` if that is less, also unasked."""
    while not stop.is_set():
        try:
            with psycopg.connect(
                database_url, autocommit=True, connect_timeout=3, application_name="relevo-dispatch"
            ) as wake:
                wake.execute(f"listen {OUTBOX_CHANNEL}")
                while not stop.is_set():
                    while sent := outbox.dispatch(sessions, partial(publish, celery)):
                        OUTBOX_PUBLISHED.inc(sent)
                    for _ in wake.notifies(timeout=min(sweep_s, RETRY_S), stop_after=1):
                        pass
        except (psycopg.OperationalError, OperationalError, TimeoutError, Unavailable) as error:
            log.warning("dispatching waits", reason=getattr(error, "detail", type(error).__name__))
            stop.wait(RETRY_S)
        except Exception:  # whatever it is, nothing moves while nobody dispatches
            log.exception("dispatching failed, trying again")
            stop.wait(RETRY_S)


def housekeeping_loop(sessions: Sessions, settings: TrainerSettings, stop: threading.Event) -> None:
    """Every `sweep_s` seconds: expired leases, waiting work, stalled cycles, due slots; now and then the rest."""
    last_monitor = -settings.monitor_s
    outage_until = time.monotonic()
    while not stop.is_set():
        # After an outage of the database, workers have one lease length to extend their leases and to report.
        expire = time.monotonic() >= outage_until
        if not _guarded("sweep", partial(_sweep, sessions, settings, expire=expire)):
            outage_until = time.monotonic() + settings.lease_s
        _guarded("schedule", lambda: schedule.tick(sessions))
        if time.monotonic() - last_monitor >= settings.monitor_s:
            last_monitor = time.monotonic()
            _guarded("monitor", lambda: _nudge_monitoring(sessions))
            _guarded("tidy", lambda: _tidy(sessions))
        stop.wait(settings.sweep_s)


def _sweep(sessions: Sessions, settings: TrainerSettings, *, expire: bool) -> None:
    with sessions.begin() as session:
        sweep(session, max_attempts=settings.max_attempts, renudge_after_s=settings.renudge_after_s, expire=expire)
        cycle_repository.nudge_stalled_cycles(session, renudge_after_s=settings.renudge_after_s)
        OUTBOX_PENDING.set(outbox.pending(session))
        OPEN_CYCLES.set(cycle_repository.open_cycles(session))


def _nudge_monitoring(sessions: Sessions) -> None:
    with sessions.begin() as session:
        for pipeline_id in repository.deployed_pipelines(session):
            outbox.enqueue(session, TaskName.MONITOR, pipeline_id)


def _tidy(sessions: Sessions) -> None:
    with sessions.begin() as session:
        repository.ensure_partitions(session)
        outbox.prune(session)
        age = func.now() - func.make_interval(0, 0, 0, 0, KEEP_ANSWERS_H)
        session.execute(delete(IdempotencyRecord).where(col(IdempotencyRecord.created_at) < age))


def _guarded(what: str, act: Callable[[], object]) -> bool:
    """A database that is away, or one row that fails, must not end the loop. False: it was the database."""
    try:
        act()
    except (OperationalError, TimeoutError) as error:
        log.warning("housekeeping waits", what=what, error=type(error).__name__)
        return False
    except Exception:
        log.exception("housekeeping failed", what=what)
    return True


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    settings = trainer_settings()
    configure_logging(settings.log_level, settings.log_format, "background")
    set_build_info("background")
    database_url, redis_url = settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()
    engine = open_engine(settings.sqlalchemy_url, pool_size=3, application="relevo-background")
    sessions = make_sessions(engine)
    checks = {"postgres": partial(ping_postgres, database_url), "redis": partial(ping_redis, redis_url)}
    http = start_worker_http(settings.metrics_port, checks, host=settings.metrics_host)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dispatcher = threading.Thread(
        target=dispatch_loop,
        args=[sessions, make_celery("background", settings), database_url, stop],
        kwargs={"sweep_s": settings.sweep_s},
        name="dispatch",
    )
    dispatcher.start()
    log.info("background process started")
    housekeeping_loop(sessions, settings, stop)
    dispatcher.join()
    if http is not None:
        http.close()
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
