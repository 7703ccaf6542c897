"""Fixtures for all tests. The folder is the marker; real engines start once a test run and give each test a database of its own."""

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from shared.config import psycopg_url
from shared.registry.migrate import migrate
from shared.registry.session import Sessions, make_sessions, open_engine
from tests.engines import Engines, running_engines

# Nothing passes or fails by timing: the first text that Hypothesis makes on a machine takes it a second.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

TESTS = Path(__file__).parent
SERVICE_KEY = "rlv_0123456789ab_" + "s" * 43
PREDICTION_SECRET = "p" * 16 + "0123456789abcdef" * 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the folder it stands in."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in ("unit", "contract", "integration", "e2e", "chaos"):
            item.add_marker(folder)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Logging is the process's: what a test (or the app it makes) sets up is taken back after it."""
    root = logging.getLogger()
    loggers = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    before = [(each, each.handlers[:], each.level, each.propagate, each.disabled) for each in loggers]
    yield
    for logger, handlers, level, propagate, disabled in before:
        logger.handlers[:], logger.propagate, logger.disabled = handlers, propagate, disabled
        logger.setLevel(level)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Real PostgreSQL and Valkey, for the whole run."""
    with running_engines(tmp_path_factory.mktemp("engines")) as running:
        yield running


@pytest.fixture(scope="session")
def template_database(engines: Engines) -> str:
    """Name of a migrated database that every test's own is copied from."""
    name = "relevo_template"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    engine = open_engine(_url(engines, name), pool_size=1)
    migrate(engine)
    engine.dispose()
    return name


@pytest.fixture
def database_url(engines: Engines, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own, as a plain postgresql:// URL."""
    name = f"relevo_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template_database}")
    yield make_url(engines.database_url).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An SQLAlchemy engine on the test's database."""
    engine = open_engine(psycopg_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    """A session factory on the test's database."""
    return make_sessions(engine)


@pytest.fixture
def relevo_env(database_url: str, engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment every process reads, pointing at this test's database, queue and folders; also set in this process."""
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": engines.redis_url,
        "RELEVO_ARTIFACTS_URL": f"file://{tmp_path}/artifacts",
        "RELEVO_CACHE_DIR": str(tmp_path / "cache"),
        "RELEVO_PREDICTION_SECRET": PREDICTION_SECRET,
        "RELEVO_SERVICE_KEY": SERVICE_KEY,
        "SERVING_SPOOL_DIR": str(tmp_path / "spool"),
        "RELEVO_LOG_FORMAT": "console",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def _url(engines: Engines, database: str) -> str:
    plain = make_url(engines.database_url).set(database=database).render_as_string(hide_password=False)
    return psycopg_url(plain)
