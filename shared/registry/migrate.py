"""Bring the schema to the current revision and make sure the bootstrap keys exist: `python -m shared.registry.migrate`.

Safe to run by several processes at once: an advisory lock lets one migrate and the others wait.
"""

import os
import sys
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from shared.config import common_settings
from shared.contracts.scopes import Scope
from shared.keys import ensure_key
from shared.observability.logging import configure_logging
from shared.registry.session import make_sessions, open_engine

log = structlog.get_logger(__name__)

MIGRATION_LOCK = 7_305_421
SERVICE_SCOPES = (Scope.READ, Scope.DATASETS, Scope.VALIDATE, Scope.DEPLOY)


def alembic_config() -> Config:
    """Alembic pointed at the migrations folder of this package; no ini file is needed."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(engine: Engine, revision: str = "head") -> None:
    """Upgrade the schema in one transaction."""
    config = alembic_config()
    with engine.begin() as connection:
        connection.execute(text("set local statement_timeout = 0; set local lock_timeout = 0"))
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def main() -> int:
    """Migrate and create the keys named by RELEVO_ADMIN_KEY and RELEVO_SERVICE_KEY."""
    settings = common_settings()
    configure_logging(settings.log_level, settings.log_format, "migrate")
    engine = open_engine(settings.sqlalchemy_url, pool_size=1, application="relevo-migrate")
    migrate(engine)
    with make_sessions(engine).begin() as session:
        ensure_key(session, settings.service_key.get_secret_value(), "services", SERVICE_SCOPES)
        if admin_key := os.environ.get("RELEVO_ADMIN_KEY"):
            ensure_key(session, admin_key, "admin", tuple(Scope))
    log.info("schema is current")
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
