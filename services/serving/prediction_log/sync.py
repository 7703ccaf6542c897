"""Syncs the log to disk in a thread of its own, so that neither answers nor shipping wait for the disk."""

import threading

import structlog

from services.serving import metrics
from services.serving.prediction_log.spool import Spool

log = structlog.stdlib.get_logger(__name__)


class Syncer:
    """The thread."""

    def __init__(self, spool: Spool, interval_s: float) -> None:
        self._spool = spool
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-sync", daemon=True)

    def start(self) -> None:
        """Begin to sync."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; closing the spool syncs once more."""
        self._stopping.set()
        self._thread.join(timeout=self._interval_s + 5)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._spool.sync()
            except OSError as error:
                metrics.LOG_SYNC_FAILURES.inc()
                log.error("the disk does not sync the prediction log", error=str(error))
