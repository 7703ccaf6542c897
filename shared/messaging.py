"""Celery as Relevo uses it: messages are nudges that name one row, PostgreSQL is the truth.

A message may be lost (the sweeper nudges again) and may come twice (the lease lets one worker have the row), so messages
are acknowledged early, results are off, and only JSON is read.
"""

import threading
import uuid
from contextlib import ExitStack
from typing import Any

import psycopg
import redis
from celery import Celery, signals
from celery.apps.worker import Worker
from kombu import Exchange
from kombu import Queue as KombuQueue
from kombu.exceptions import OperationalError

from shared.config import CommonSettings
from shared.consumer_watch import ConsumerWatch
from shared.contracts.tasks import QUEUE_OF, Queue, TaskName
from shared.errors import Unavailable
from shared.observability.context import log_context, request_id
from shared.observability.logging import configure_logging
from shared.observability.metrics import set_build_info
from shared.observability.worker_http import start_worker_http

KEY_PREFIX = "relevo:"
CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 5.0  # longer than the one second that a worker's BRPOP blocks
HEALTH_CHECK_S = 15  # a consumer on a half-open connection reconnects within about twice this
VISIBILITY_TIMEOUT_S = 3600
_HEADER = "request_id"


def make_celery(service_name: str, settings: CommonSettings) -> Celery:
    """The Celery application of one service; its worker process logs, reports and watches itself through this module."""
    app = Celery(f"relevo-{service_name}", set_as_current=False)
    app.conf.update(
        broker_url=settings.redis_url.get_secret_value(),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_publish_retry=False,
        task_queues=[KombuQueue(name, Exchange(name), routing_key=name) for name in map(str, Queue)],
        task_create_missing_queues=False,
        task_default_queue=Queue.CYCLES.value,
        # Nothing lies reserved in a worker that is busy: a message stays in Redis until someone is free for it.
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        # Concerns late acknowledgement only, so never acts here; unset, Celery warns at each lost connection.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=CONNECT_TIMEOUT_S,
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            # Without this only every tenth sweep looks for messages a dead worker held.
            "unacked_restore_throttle": 1,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_S,
            # For publishing: kombu would otherwise go on connecting for ever. A worker has its own rule, above.
            "max_retries": 1,
            "interval_start": 0.1,
        },
        enable_utc=True,
        timezone="UTC",
    )
    app.Worker = _quiet_worker(app)
    _install(app, service_name, settings)
    return app


def publish(app: Celery, task: TaskName, row_id: uuid.UUID, request: str = "") -> None:
    """Send one nudge to the task's queue, within seconds or not at all.

    Args:
        request: the request id that the task's log lines shall carry; by default the current one.

    Raises:
        Unavailable: Redis cannot be reached; the outbox keeps the nudge.
    """
    try:
        app.send_task(
            task.value,
            args=[str(row_id)],
            queue=QUEUE_OF[task].value,
            headers={_HEADER: request or request_id.get()},
            retry=False,
            ignore_result=True,
        )
    except (OperationalError, redis.RedisError, OSError) as error:
        raise Unavailable("the queue (Redis) cannot be reached; what was asked for is kept and sent later") from error


def asked_to_stop() -> threading.Event:
    """Set as soon as this worker process is asked to stop; work that was claimed with it is then handed over.

    Set by a signal handler on the thread that works: there, look at it, and never wait on it.
    """
    asked = threading.Event()
    signals.worker_shutting_down.connect(lambda **_: asked.set(), weak=False)
    return asked


def ping_redis(url: str) -> None:
    """Raises redis.RedisError when the server does not answer within seconds."""
    with _client(url) as client:
        client.ping()


def ping_postgres(url: str) -> None:
    """Raises psycopg.Error when the database does not answer within seconds. `url` as in DATABASE_URL."""
    url = url.replace("postgresql+psycopg://", "postgresql://", 1)
    options = f"-c statement_timeout={int(SOCKET_TIMEOUT_S * 1000)}"
    with psycopg.connect(url, connect_timeout=int(CONNECT_TIMEOUT_S), options=options, autocommit=True) as connection:
        connection.execute("select 1")


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S, client_name="relevo-watch"
    )


def _quiet_worker(app: Celery) -> type[Worker]:
    """Workers that print no banner and do not talk to each other: no gossip, no event heartbeats.

    A solo worker in a long training run would look dead to the others, and nobody listens.
    """
    silent = {"quiet": True, "without_gossip": True, "without_mingle": True, "without_heartbeat": True}
    base: Any = app.subclass_with_self(Worker)

    class QuietWorker(base):
        def __init__(self, **options: object) -> None:
            super().__init__(**{**options, **silent})

    return QuietWorker


def _install(app: Celery, service_name: str, settings: CommonSettings) -> None:
    """Hook logging, request ids, readiness and the watch into the worker processes of this application."""
    redis_url = settings.redis_url.get_secret_value()
    database_url = settings.database_url.get_secret_value()
    queues: list[str] = []
    stop = threading.Event()
    running: dict[str, ExitStack] = {}

    def waiting() -> int:
        with _client(redis_url) as client:
            return sum(int(client.llen(KEY_PREFIX + queue)) for queue in queues)

    watch = ConsumerWatch(waiting)

    def set_up_logging(**_: object) -> None:
        configure_logging(settings.log_level, settings.log_format, f"{service_name}-worker")

    def start(sender: Any, **_: object) -> None:
        if sender.app is not app:
            return
        queues[:] = [str(name) for name in app.amqp.queues.consume_from]
        set_build_info(f"{service_name}-worker")
        checks = {
            "redis": lambda: ping_redis(redis_url),
            "postgres": lambda: ping_postgres(database_url),
            "consumer": watch.check,
        }
        start_worker_http(settings.metrics_port, checks, host=settings.metrics_host)
        threading.Thread(target=watch.run, args=[stop], name="consumer-watch", daemon=True).start()

    def before(sender: Any, task_id: str, args: tuple[object, ...] | list[object], **_: object) -> None:
        if sender.app is not app:
            return
        watch.task_started()
        context = running[task_id] = ExitStack()
        request = getattr(sender.request, _HEADER, None) or task_id
        context.enter_context(log_context(request=request, task=sender.name, row_id=args[0] if args else None))

    def after(sender: Any, task_id: str, **_: object) -> None:
        context = running.pop(task_id, None)
        if context is not None:
            context.close()
            watch.task_ended()

    def shut_down(sender: Any, **_: object) -> None:
        stop.set()

    uid = f"{app.main}-{id(app)}"
    signals.setup_logging.connect(set_up_logging, weak=False, dispatch_uid=f"{uid}-logging")
    signals.worker_ready.connect(start, weak=False, dispatch_uid=f"{uid}-ready")
    signals.task_prerun.connect(before, weak=False, dispatch_uid=f"{uid}-before")
    signals.task_postrun.connect(after, weak=False, dispatch_uid=f"{uid}-after")
    signals.worker_shutting_down.connect(shut_down, weak=False, dispatch_uid=f"{uid}-stop")
