"""Appends and who reads a watermark: each waits for the other, and one that stalls holds nobody up for ever."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.errors import Unavailable
from shared.registry import session as module
from shared.registry.connection import APPENDER_IDLE_MS
from shared.registry.session import Sessions, ingest_settled, lock_for_ingest
from tests.support.waiting import DEADLINE_S, until


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_TRY_MS", 200)
    monkeypatch.setattr(module, "SETTLE_PAUSE_S", 0.05)


def reading(sessions: Sessions) -> tuple[threading.Thread, list[str]]:
    """A reader of the watermark in a thread, and what became of it."""
    ended: list[str] = []

    def read() -> None:
        try:
            with ingest_settled(sessions) as session:
                ended.append(str(session.scalar(text("show lock_timeout"))))
        except Unavailable as error:
            ended.append(error.detail)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, ended


def waits(sessions: Sessions) -> Callable[[], bool]:
    def seen() -> bool:
        query = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and not granted"
        with sessions.begin() as session:
            return bool(session.scalar(text(query)))

    return seen


@pytest.mark.usefixtures("short_turns")
def test_while_an_append_stalls_others_pass_and_the_reader_goes_on_waiting(sessions: Sessions) -> None:
    with sessions() as stalled:
        lock_for_ingest(stalled)
        thread, ended = reading(sessions)
        for _ in range(3):
            until(waits(sessions), "the reader waits for the stalled append")
            with sessions.begin() as other:
                lock_for_ingest(other)  # behind the reader, which steps aside
        assert (thread.is_alive(), ended) == (True, [])
        stalled.commit()
    thread.join(DEADLINE_S)
    assert ended == ["10s"], "what comes after has the time that any transaction has"


def test_an_append_that_is_left_alone_is_ended(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, lock = module.LOCK_FOR_INGEST
    monkeypatch.setattr(module, "LOCK_FOR_INGEST", (limit.replace(str(APPENDER_IDLE_MS), "500"), lock))
    with sessions() as stalled:
        lock_for_ingest(stalled)
        thread, ended = reading(sessions)
        thread.join(DEADLINE_S)
        assert ended == ["10s"]
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            stalled.execute(text("select 1"))
    with sessions.begin() as session:
        assert session.scalar(text("show idle_in_transaction_session_timeout")) == "2min"


@pytest.mark.usefixtures("short_turns")
def test_a_reader_gives_up_in_the_end_and_says_why(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.5)
    with sessions() as stalled:
        lock_for_ingest(stalled)
        thread, ended = reading(sessions)
        thread.join(DEADLINE_S)
    assert ended == ["Rows are still being stored that came before; it is tried again when they have been."]
