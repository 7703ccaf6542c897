"""The background process's loops: they outlast what fails in them, and keep house."""

import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import func, text
from sqlalchemy.exc import OperationalError

from services.trainer import background, repository
from services.trainer.config import TrainerSettings
from shared.contracts.tasks import TaskName
from shared.errors import Unavailable
from shared.jobs import outbox
from shared.messaging import make_celery
from shared.registry.session import Sessions
from shared.registry.tables import Deployment, IdempotencyRecord, OutboxMessage
from tests.support.rows import AS_OF, Rows
from tests.support.waiting import until


@pytest.fixture
def celery(settings: TrainerSettings) -> Celery:
    return make_celery("test", settings)


@pytest.fixture
def dispatcher(
    sessions: Sessions, database_url: str, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Any]]:
    """The loop on a thread; what it publishes, and before that the faults that publishing meets."""
    faults: list[Exception] = [Unavailable("away"), ValueError("a bug"), OperationalError("select", {}, Exception())]
    sent: list[Any] = [faults]

    def publish(_: Celery, *nudge: Any) -> None:
        if faults:
            raise faults.pop()
        sent.append(nudge)

    monkeypatch.setattr(background, "publish", publish)
    monkeypatch.setattr(background, "RETRY_S", 0.05)
    stop = threading.Event()
    thread = threading.Thread(
        target=background.dispatch_loop, args=[sessions, celery, database_url, stop], kwargs={"sweep_s": 0.5}
    )
    thread.start()
    yield sent
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_the_dispatcher_outlasts_every_fault(sessions: Sessions, dispatcher: list[Any]) -> None:
    faults, *_ = dispatcher
    row = uuid.uuid4()
    with sessions.begin() as session:
        outbox.enqueue(session, TaskName.TRAIN, row)
    until(lambda: len(dispatcher) == 2, "the nudge is sent")
    assert faults == []
    assert dispatcher[1] == (TaskName.TRAIN, row, "")


def test_the_dispatcher_connects_again(sessions: Sessions, dispatcher: list[Any], engines: Any, rows: Rows) -> None:
    dispatcher[0].clear()
    with sessions.begin() as session:
        kill = text(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = 'relevo-dispatch' and datname = current_database()"
        )
        until(lambda: session.scalar(kill) == 1, "the dispatcher's own connection is cut")
    with sessions.begin() as session:
        outbox.enqueue(session, TaskName.TRAIN, uuid.uuid4())
    until(lambda: len(dispatcher) == 2, "the nudge is sent")


def test_housekeeping_outlasts_every_fault(
    sessions: Sessions, settings: TrainerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    looks = {"sweep": 0, "tick": 0}

    def sweep(*_: object, expire: bool) -> None:
        assert expire == (looks["sweep"] == 0), "no lease expires just after an outage"
        looks["sweep"] += 1
        raise OperationalError("select", {}, Exception("away"))

    def tick(*_: object) -> None:
        looks["tick"] += 1
        if looks["tick"] == 3:
            stop.set()
        raise ValueError("a bug")

    monkeypatch.setattr(background, "_sweep", sweep)
    monkeypatch.setattr(background.schedule, "tick", tick)
    background.housekeeping_loop(sessions, settings.model_copy(update={"sweep_s": 0.01}), stop)
    assert looks == {"sweep": 3, "tick": 3}


def test_live_models_are_monitored(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    rows.pipeline(name="without-a-model")
    rows.add(
        Deployment(
            pipeline_id=pipeline,
            generation=1,
            live_version_id=rows.version(pipeline),
            override="test",
            updated_at=AS_OF,
        )
    )
    rows.forget_nudges()
    background._nudge_monitoring(sessions)
    assert rows.nudges() == [(TaskName.MONITOR, pipeline)]


def test_tidying(rows: Rows, sessions: Sessions) -> None:
    for hours, key in ((background.KEEP_ANSWERS_H + 1, "old"), (background.KEEP_ANSWERS_H - 1, "new")):
        rows.add(
            IdempotencyRecord(
                key_id="k", route="POST /", idempotency_key=key, body_digest="", status=202, body={},
                created_at=database_now(rows) - timedelta(hours=hours),
            )
        )  # fmt: skip
    with sessions.begin() as session:
        outbox.enqueue(session, TaskName.TRAIN, uuid.uuid4())
    outbox.dispatch(sessions, lambda *_: None)
    (sent,) = rows.all(OutboxMessage)
    rows.set(OutboxMessage, sent.id, sent_at=func.now() - timedelta(hours=2))
    background._tidy(sessions)
    assert [row.idempotency_key for row in rows.all(IdempotencyRecord)] == ["new"]
    assert rows.all(OutboxMessage) == []


def database_now(rows: Rows) -> Any:
    with rows.sessions.begin() as session:
        return repository.database_now(session)


def test_this_month_and_the_next_have_partitions(sessions: Sessions, rows: Rows) -> None:
    with sessions.begin() as session:
        tables = "select to_char(now() at time zone 'UTC' + make_interval(0, :more), '\"prediction_requests_\"YYYY_MM')"
        names = [session.scalar(text(tables), {"more": more}) for more in (0, 1)]
        for name in names:
            session.execute(text(f"drop table {name}"))
    with sessions.begin() as session:
        repository.ensure_partitions(session)
    with sessions.begin() as session:
        assert [session.scalar(text("select to_regclass(:name)::text"), {"name": name}) for name in names] == names
