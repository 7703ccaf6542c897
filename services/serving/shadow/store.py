"""Storing comparisons. They are no predictions: what PostgreSQL does not take is dropped, and counted."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import timedelta

import psycopg

from services.serving.shadow.comparing import Comparison
from shared.registry.connection import connect_arguments

_COPY = """
    copy shadow_comparisons (request_id, requested_at, pipeline_id, live_version_id, shadow_version_id, generation, live_scores,
                             shadow_scores, live_run_us, shadow_run_us) from stdin
"""
_PRUNE = "delete from shadow_comparisons where compared_at < now() - %s::interval"


class ComparisonStore:
    """Stores comparisons in batches, and forgets old ones."""

    def __init__(self, database_url: str, *, keep: timedelta) -> None:
        """Prepare; the first use connects.

        Args:
            database_url: as libpq takes it.
            keep: older comparisons are deleted.
        """
        self._database_url = database_url
        self._keep = keep
        self._connection: psycopg.Connection | None = None

    def store(self, comparisons: Sequence[Comparison]) -> bool:
        """Whether they are stored; False when PostgreSQL is away or refuses them."""
        try:
            connection = self._connected()
            with connection.transaction(), connection.cursor().copy(_COPY) as copy:
                for comparison in comparisons:
                    copy.write_row(astuple(comparison))
        except psycopg.Error:
            self.close()
            return False
        return True

    def prune(self) -> None:
        """Delete what is too old; the next time will do when PostgreSQL is away."""
        try:
            with self._connected().transaction() as transaction:
                transaction.connection.execute(_PRUNE, [self._keep])
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        """Let go of the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = psycopg.connect(self._database_url, **connect_arguments("relevo-serving-shadow"))
        return self._connection
