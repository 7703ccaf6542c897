"""Migrations lead from nothing to exactly what the models say, and back."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel

from shared.config import psycopg_url
from shared.registry.migrate import alembic_config, migrate
from shared.registry.session import open_engine
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
