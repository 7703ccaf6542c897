"""Engine and sessions. One request or task is one transaction, opened and committed at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import sessionmaker
from sqlmodel import Session

Sessions = sessionmaker[Session]

INGEST_LOCK = 7_305_420
"""Advisory lock between those who append events, labels and predictions (shared) and those who read a watermark (exclusive)."""


def open_engine(url: str, *, pool_size: int = 5, application: str = "relevo") -> Engine:
    """An engine whose connections fail fast and never wait for ever.

    Args:
        url: SQLAlchemy URL with the psycopg driver (`CommonSettings.sqlalchemy_url`).
        pool_size: connections kept; as many again may be opened under load.
        application: shown in `pg_stat_activity`.
    """
    options = (
        "-c statement_timeout=60000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=120000 -c timezone=UTC"
    )
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 3,
            "application_name": application,
            "options": options,
            "keepalives": 1,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )


def make_sessions(engine: Engine) -> Sessions:
    """A session factory; use it as `with sessions.begin() as session:` (commit on success, roll back on error)."""
    return sessionmaker(engine, class_=Session, expire_on_commit=False)


def lock_for_ingest(session: Session) -> None:
    """Hold the ingest lock shared until the transaction ends. Call before the first insert of events, labels or predictions."""
    session.execute(text("select pg_advisory_xact_lock_shared(:lock)"), {"lock": INGEST_LOCK})


@contextmanager
def ingest_settled(sessions: Sessions) -> Iterator[Session]:
    """A short transaction in which no append is in flight: the highest sequence it reads is a true watermark."""
    with sessions.begin() as session:
        session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": INGEST_LOCK})
        yield session


def ping(engine: Engine) -> None:
    """Raise unless the database answers."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
