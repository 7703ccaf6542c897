"""Migrations lead from nothing to exactly what the models say, and back."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel, col

from services.data.repository import quarantine
from shared.config import psycopg_url
from shared.registry.migrate import alembic_config, migrate
from shared.registry.session import make_sessions, open_engine
from shared.registry.tables import QuarantinedRow
from tests.engines import Engines


@pytest.fixture
def empty(engines: Engines) -> Iterator[Engine]:
    """An engine on a database without a schema."""
    name = f"relevo_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    url = make_url(engines.database_url).set(database=name).render_as_string(hide_password=False)
    engine = open_engine(psycopg_url(url))
    yield engine
    engine.dispose()
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def alembic(engine: Engine, what: str, *arguments: str) -> None:
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, what)(config, *arguments)


def left(engine: Engine) -> list[str]:
    """What a schema is made of, the migrations' own table aside."""
    query = """
        select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'public' and c.relname not like 'alembic_version%'
        union all
        select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'public'
    """
    with engine.connect() as connection:
        return sorted(connection.execute(text(query)).scalars())


def test_up_down_and_up_again(empty: Engine) -> None:
    migrate(empty)
    first = left(empty)
    assert set(SQLModel.metadata.tables) <= set(inspect(empty).get_table_names())
    alembic(empty, "downgrade", "base")
    assert left(empty) == []
    migrate(empty)
    assert left(empty) == first


def test_the_models_and_the_migrations_are_equal(engine: Engine) -> None:
    alembic(engine, "check")  # raises when a migration is missing


def test_many_at_once_migrate_once(empty: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(migrate, empty) for _ in range(4)]:
            future.result()
    with empty.connect() as connection:
        assert len(connection.execute(text("select * from alembic_version")).all()) == 1


def test_rows_that_quarantine_kept_twice_become_one(empty: Engine) -> None:
    migrate(empty, "0001")
    pipeline = uuid.uuid4()
    with empty.begin() as connection:
        connection.execute(
            text("insert into pipelines (id, name, spec_version) values (:id, 'trips', 1)"), {"id": pipeline}
        )
        connection.execute(
            text("""
                insert into quarantine (pipeline_id, kind, reason, payload, received_at)
                select :id, kind, 'bad', payload, timestamptz '2013-04-01 00:00Z' + make_interval(days => day)
                from (values ('event', '1', 1), ('event', '2', 2), ('event', '1', 3), ('label', '1', 4), ('event', '1', 5))
                    as r(kind, payload, day)
            """),
            {"id": pipeline},
        )
    migrate(empty)
    sessions = make_sessions(empty)
    with sessions.begin() as session:
        kept = session.scalars(select(QuarantinedRow).order_by(col(QuarantinedRow.seq))).all()
        assert [(row.kind, row.payload, row.times) for row in kept] == [
            ("event", "1", 3), ("event", "2", 1), ("label", "1", 1),
        ]  # fmt: skip
        assert [(row.received_at.day, row.last_received_at.day) for row in kept] == [(2, 6), (3, 3), (5, 5)]
        # Sent once more, it is known: the digests of then are those of now.
        quarantine(session, pipeline, "event", [("bad", "1"), ("bad", "3")])
    with sessions.begin() as session:
        times = session.execute(select(QuarantinedRow.payload, QuarantinedRow.times).order_by(col(QuarantinedRow.seq)))
        assert times.all() == [("1", 4), ("2", 1), ("1", 1), ("3", 1)]
    alembic(empty, "downgrade", "0001")
    migrate(empty)


def test_a_row_that_quarantine_kept_very_often_becomes_one(empty: Engine) -> None:
    """A statement that pairs equal rows would take ten minutes: the engine's connections end it after one."""
    migrate(empty, "0001")
    with empty.begin() as connection:
        for statement in MUCH_QUARANTINED.split(";"):
            connection.execute(text(statement), {"rows": REPEATS})
    alembic(empty, "upgrade", "0002")
    query = """
        select p.name, q.payload, count(*), sum(q.times), extract(epoch from min(q.received_at))::int,
               extract(epoch from max(q.last_received_at))::int
        from quarantine q join pipelines p on p.id = q.pipeline_id
        where q.payload in ('again', 'once 1') group by p.name, q.payload order by p.name, q.payload
    """
    with empty.connect() as connection:
        assert connection.execute(text(query)).all() == [
            ("rides", "again", 1, REPEATS, 1, REPEATS), ("rides", "once 1", 1, 1, 1, 1),
            ("trips", "again", 1, REPEATS, 1, REPEATS), ("trips", "once 1", 1, 1, 1, 1),
        ]  # fmt: skip
        assert connection.execute(text("select count(*) from quarantine")).scalar_one() == 2 * (1 + REPEATS)


REPEATS = 50_000
MUCH_QUARANTINED = """
    insert into pipelines (id, name, spec_version) values (gen_random_uuid(), 'trips', 1), (gen_random_uuid(), 'rides', 1);
    insert into quarantine (pipeline_id, kind, reason, payload, received_at)
    select p.id, 'event', 'bad', payload, to_timestamp(number)
    from generate_series(1, :rows) as g(number)
    cross join pipelines p cross join lateral (values ('again'), ('once ' || number)) as r(payload)
"""
