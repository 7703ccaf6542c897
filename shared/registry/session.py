"""Engine and sessions. One request or task is one transaction, opened and committed at the edge."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from psycopg.errors import LockNotAvailable
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker
from sqlmodel import Session

from shared.errors import Unavailable
from shared.registry.connection import INGEST_LOCK, LOCK_FOR_INGEST, connect_arguments

log = structlog.get_logger(__name__)

Sessions = sessionmaker[Session]

SETTLE_TRY_MS, SETTLE_PAUSE_S = 2_000, 0.5
"""Who reads a watermark waits in short turns: appends that come meanwhile queue behind it, and pass between two turns."""
SETTLE_S = 120.0
"""And so long in all: longer than an append left alone may last, and than one statement of it."""


def open_engine(url: str, *, pool_size: int = 5, application: str = "relevo") -> Engine:
    """An engine whose connections fail fast and never wait for ever.

    Args:
        url: SQLAlchemy URL with the psycopg driver (`CommonSettings.sqlalchemy_url`).
        pool_size: connections kept; as many again may be opened under load.
        application: shown in `pg_stat_activity`.
    """
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args=connect_arguments(application),
    )


def make_sessions(engine: Engine) -> Sessions:
    """A session factory; use it as `with sessions.begin() as session:` (commit on success, roll back on error)."""
    return sessionmaker(engine, class_=Session, expire_on_commit=False)


def lock_for_ingest(session: Session) -> None:
    """Hold the ingest lock shared until the transaction ends. Call before the first insert of events, labels or predictions.

    From here on the transaction may not be left alone for longer than `APPENDER_IDLE_MS`.
    """
    for statement in LOCK_FOR_INGEST:
        session.execute(text(statement))


@contextmanager
def ingest_settled(sessions: Sessions, check: Callable[[], None] = lambda: None) -> Iterator[Session]:
    """A short transaction in which no append is in flight: the highest sequence it reads is a true watermark.

    Args:
        check: called while it waits; raises to stop.

    Raises:
        Unavailable: an append has not ended for `SETTLE_S`; ask again later.
    """
    with sessions() as session, session.begin():
        _wait_for_appends(session, check)
        yield session


def _wait_for_appends(session: Session, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + SETTLE_S
    session.execute(text("select set_config('lock_timeout', :ms, true)"), {"ms": str(SETTLE_TRY_MS)})
    while True:
        try:
            with session.begin_nested():
                session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": INGEST_LOCK})
            session.execute(text("set local lock_timeout to default"))
            return
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
        if time.monotonic() >= deadline:
            raise Unavailable("Rows are still being stored that came before; it is tried again when they have been.")
        check()
        log.info("waiting for rows that are being stored")
        time.sleep(SETTLE_PAUSE_S)


def ping(engine: Engine) -> None:
    """Raise unless the database answers."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
