"""Notices a worker that has gone deaf: alive, idle, and not taking the messages that wait for it.

Celery workers have stopped consuming after a broker reconnect without any error (celery#8030, #8091, #10205), so that a
living process proves nothing. What does: messages wait in this worker's queues and it neither runs nor takes one.
"""

import os
import threading
import time
from collections.abc import Callable

import structlog

from shared.errors import Unavailable

LOOK_EVERY_S = 5.0
DEAF_AFTER_S = 30.0
EXIT_AFTER_S = 90.0
EXIT_CODE = 70  # EX_SOFTWARE

log = structlog.stdlib.get_logger(__name__)


class ConsumerWatch:
    """Watches one worker process. Deaf after 30 s is told by `check`; after 90 s `run` ends the process for a restart."""

    def __init__(self, waiting: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`waiting` counts the messages in this worker's queues; it may raise when the broker is away."""
        self._waiting = waiting
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._ignored_since: float | None = None

    def task_started(self) -> None:
        with self._lock:
            self._running += 1
            self._ignored_since = None

    def task_ended(self) -> None:
        with self._lock:
            self._running -= 1
            self._ignored_since = None

    def look(self) -> float:
        """Look once at the queues; returns for how many seconds messages have been left lying, 0 when all is well."""
        try:
            waiting = self._waiting()
        except Exception as error:  # noqa: BLE001 - the broker is away: its own check says so, and nobody can be deaf to it
            log.debug("the queues cannot be looked at", error=str(error))
            waiting = 0
        with self._lock:
            if waiting == 0 or self._running:
                self._ignored_since = None
                return 0.0
            if self._ignored_since is None:
                self._ignored_since = self._clock()
            return self._clock() - self._ignored_since

    def check(self) -> None:
        """A readiness check.

        Raises:
            Unavailable: messages have waited for 30 s while this worker was idle.
        """
        if self.look() >= DEAF_AFTER_S:
            raise Unavailable("messages wait but this idle worker takes none; it restarts itself if that goes on")

    def run(self, stop: threading.Event, *, end: Callable[[int], object] = os._exit) -> None:
        """Look every 5 s until `stop` is set; end the process when it has been deaf for 90 s.

        No task runs at that moment, and its supervisor starts a new one.
        """
        while not stop.wait(LOOK_EVERY_S):
            ignored_s = self.look()
            if ignored_s >= EXIT_AFTER_S:
                log.critical(
                    "the worker takes no messages; ending it so that it is started afresh", ignored_s=ignored_s
                )
                end(EXIT_CODE)
                return
