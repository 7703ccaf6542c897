"""Hears from PostgreSQL that a deployment changed, so that replicas follow within milliseconds. Polling covers what it misses."""

import threading
from collections.abc import Callable

import psycopg
import structlog
from psycopg import sql

from shared.contracts.tasks import DEPLOYMENT_CHANNEL

log = structlog.stdlib.get_logger(__name__)

STOP_S = 0.5
"""How soon the thread hears that it is to end."""
RECONNECT_S = 2.0


class Listener:
    """The thread with a connection of its own."""

    def __init__(self, database_url: str, heard: Callable[[], None]) -> None:
        """Prepare.

        Args:
            database_url: a plain postgresql:// URL.
            heard: called for each notification, and after each new connection: something may have been missed.
        """
        self._database_url = database_url
        self._heard = heard
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deployment-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(timeout=STOP_S + 2)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, OSError) as error:
                log.debug("not listening for deployments; polling goes on", error=type(error).__name__)
                self._stopping.wait(RECONNECT_S)

    def _listen(self) -> None:
        with psycopg.connect(
            self._database_url,
            autocommit=True,
            connect_timeout=3,
            application_name="relevo-serving-listener",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        ) as connection:
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(DEPLOYMENT_CHANNEL)))
            self._heard()
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=STOP_S, stop_after=1):
                    self._heard()
