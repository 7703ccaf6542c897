"""What every connection to the registry has in common, with SQLAlchemy or without. Imports nothing, so that it costs nothing."""

from typing import Any

INGEST_LOCK = 7_305_420
"""Advisory lock between those who append events, labels and predictions (shared) and those who read a watermark (exclusive)."""
APPENDER_IDLE_MS = 30_000
"""PostgreSQL ends an append whose process leaves it alone for so long: nobody else may wait for it for ever."""
LOCK_FOR_INGEST = (
    f"select set_config('idle_in_transaction_session_timeout', '{APPENDER_IDLE_MS}', true)",
    f"select pg_advisory_xact_lock_shared({INGEST_LOCK})",
)
"""The statements of `lock_for_ingest`."""


def connect_arguments(application: str) -> dict[str, Any]:
    """Arguments for psycopg: connections that fail fast and never wait for ever.

    Args:
        application: shown in `pg_stat_activity`.
    """
    options = (
        "-c statement_timeout=60000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=120000 -c timezone=UTC"
    )
    return {
        "connect_timeout": 3,
        "application_name": application,
        "options": options,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
