"""A nudge is written with its work, sent once the queue takes it, and written again when the queue forgot it."""

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import func

from shared.contracts.tasks import OUTBOX_CHANNEL, TaskName
from shared.errors import Unavailable
from shared.jobs import outbox
from shared.jobs.sweeper import sweep
from shared.observability.context import log_context
from shared.registry.session import Sessions
from shared.registry.tables import OutboxMessage, Run
from tests.support.rows import Rows


def write(sessions: Sessions, count: int) -> list[uuid.UUID]:
    ids = [uuid.uuid4() for _ in range(count)]
    for row in ids:
        with sessions.begin() as session:
            outbox.enqueue(session, TaskName.TRAIN, row)
    return ids


def waiting(sessions: Sessions) -> int:
    with sessions.begin() as session:
        return outbox.pending(session)


def test_sent_in_order_with_the_request_that_asked(sessions: Sessions) -> None:
    with log_context(request="from-the-user"):
        ids = write(sessions, 3)
    sent: list[tuple[TaskName, uuid.UUID, str]] = []
    assert waiting(sessions) == 3
    assert outbox.dispatch(sessions, lambda *nudge: sent.append(nudge), batch=2) == 2
    assert outbox.dispatch(sessions, lambda *nudge: sent.append(nudge), batch=2) == 1
    assert outbox.dispatch(sessions, lambda *nudge: sent.append(nudge)) == 0
    assert sent == [(TaskName.TRAIN, row, "from-the-user") for row in ids]
    assert waiting(sessions) == 0


def test_each_once_among_two_dispatchers(sessions: Sessions) -> None:
    ids = write(sessions, 40)
    sent: list[uuid.UUID] = []
    start = threading.Barrier(2)

    def work() -> int:
        start.wait()
        count = 0
        while waiting(sessions):
            count += outbox.dispatch(sessions, lambda _, row, __: sent.append(row), batch=3)
        return count

    with ThreadPoolExecutor(2) as pool:
        counts = [future.result() for future in [pool.submit(work), pool.submit(work)]]
    assert Counter(sent) == Counter(ids)
    assert sum(counts) == 40


def test_what_one_dispatcher_holds_another_does_not_send(sessions: Sessions) -> None:
    first, *_ = write(sessions, 2)
    held, go_on = threading.Event(), threading.Event()

    def slow(_: TaskName, row: uuid.UUID, __: str) -> None:
        held.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        slowly = pool.submit(outbox.dispatch, sessions, slow, batch=1)
        assert held.wait(60)
        sent: list[uuid.UUID] = []
        assert outbox.dispatch(sessions, lambda _, row, __: sent.append(row)) == 1
        assert first not in sent
        go_on.set()
        assert slowly.result() == 1


def test_a_queue_that_goes_away_in_the_middle(sessions: Sessions) -> None:
    ids = write(sessions, 5)
    sent: list[uuid.UUID] = []

    def publish(_: TaskName, row: uuid.UUID, __: str) -> None:
        if len(sent) == 3:
            raise Unavailable("the queue cannot be reached")
        sent.append(row)

    with pytest.raises(Unavailable):
        outbox.dispatch(sessions, publish)
    assert (sent, waiting(sessions)) == (ids[:3], 2)
    with pytest.raises(Unavailable):
        outbox.dispatch(sessions, publish)
    assert waiting(sessions) == 2
    assert outbox.dispatch(sessions, lambda _, row, __: sent.append(row)) == 2
    assert sent == ids


def test_an_unknown_task_hinders_no_other(rows: Rows, sessions: Sessions) -> None:
    for _ in range(3):
        rows.add(OutboxMessage(task="trainer.of_another_release", row_id=uuid.uuid4()))
    ids = write(sessions, 2)
    sent: list[uuid.UUID] = []
    counts = [outbox.dispatch(sessions, lambda _, row, __: sent.append(row), batch=2) for _ in range(3)]
    assert (counts, sent, waiting(sessions)) == ([0, 1, 1], ids, 0)


def test_no_work_no_nudge(sessions: Sessions) -> None:
    with sessions() as session:
        outbox.enqueue(session, TaskName.TRAIN, uuid.uuid4())
        session.flush()
        session.rollback()
    assert waiting(sessions) == 0


def test_writing_wakes_the_dispatcher(sessions: Sessions, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute(f"listen {OUTBOX_CHANNEL}")
        write(sessions, 1)
        assert [note.channel for note in listener.notifies(timeout=60, stop_after=1)] == [OUTBOX_CHANNEL]


def test_a_nudge_that_the_queue_lost_is_written_again(rows: Rows, sessions: Sessions, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline)
    queue: list[uuid.UUID] = []
    with sessions.begin() as session:
        sweep(session, max_attempts=3, renudge_after_s=60)
    outbox.dispatch(sessions, lambda _, row, __: queue.append(row))
    queue.clear()  # FLUSHALL
    rows.set(Run, run, nudged_at=func.now() - timedelta(seconds=61))
    with sessions.begin() as session:
        sweep(session, max_attempts=3, renudge_after_s=60)
    outbox.dispatch(sessions, lambda _, row, __: queue.append(row))
    assert queue == [run]


def test_old_nudges_are_deleted_but_none_that_waits(rows: Rows, sessions: Sessions) -> None:
    ids = write(sessions, 3)
    outbox.dispatch(sessions, lambda *_: None, batch=2)
    by_row = {row.row_id: row.id for row in rows.all(OutboxMessage)}
    old = func.now() - outbox.KEEP_SENT - timedelta(minutes=1)
    rows.set(OutboxMessage, by_row[ids[0]], sent_at=old)
    rows.set(OutboxMessage, by_row[ids[2]], created_at=old)
    with sessions.begin() as session:
        outbox.prune(session)
    assert {row.row_id for row in rows.all(OutboxMessage)} == set(ids[1:])
