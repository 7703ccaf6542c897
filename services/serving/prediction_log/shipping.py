"""Serving's side of the shipper: starts its process, hears its progress, starts it again when it dies."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import structlog

from services.serving import metrics
from services.serving.prediction_log.shipper import Progress
from services.serving.prediction_log.spool import Spool

log = structlog.stdlib.get_logger(__name__)

FIRST_RESTART_S, MAX_RESTART_S = 0.5, 30.0
STOP_GRACE_S = 5.0


class Shipping:
    """The process and the thread that listens to it."""

    def __init__(self, folder: Path, spool: Spool, *, database_url: str, interval_s: float, flush_s: float) -> None:
        """Prepare; nothing happens before `start`.

        Args:
            folder: the one this process logs to.
            spool: the segments in it; told what is shipped.
            database_url: as libpq takes it.
            interval_s: time between two batches under light load.
            flush_s: at the end, how long to go on with what is left.
        """
        self._folder = folder
        self._spool = spool
        self._database_url = database_url
        self._interval_s = interval_s
        self._flush_s = flush_s
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._oldest_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="log-shipping", daemon=True)

    @property
    def lag_s(self) -> float:
        """Age of the oldest prediction that is being shipped; 0 when nothing waits."""
        oldest_s = self._oldest_s
        return 0.0 if oldest_s is None else max(0.0, time.time() - oldest_s)

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def stop(self) -> None:
        """Let the process ship what is left, for its time, then end. What remains is shipped by the next process."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()
        self._thread.join(self._flush_s + STOP_GRACE_S)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._thread.join(STOP_GRACE_S)

    def _run(self) -> None:
        restart_s = FIRST_RESTART_S
        while True:
            began_s = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._started()
            with self._process as process:
                assert process.stdout is not None
                for line in process.stdout:
                    self._hear(Progress(**orjson.loads(line)))
            if self._stopping.is_set():
                return
            if self._spool.waiting_bytes:
                self._oldest_s = self._oldest_s or time.time()
            restart_s = (
                FIRST_RESTART_S if time.monotonic() - began_s > MAX_RESTART_S else min(restart_s * 2, MAX_RESTART_S)
            )
            log.error("the shipper of the prediction log has ended; starting it again", status=process.returncode)
            metrics.SHIP_FAILURES.inc()
            self._stopping.wait(restart_s)

    def _started(self) -> "subprocess.Popen[bytes]":
        options = {
            "sealed-below": self._spool.sealed_below,
            "interval-s": self._interval_s,
            "flush-s": self._flush_s,
            "parent": os.getpid(),
        }
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services.serving.prediction_log.ship",
                str(self._folder),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "DATABASE_URL": self._database_url},
        )

    def _hear(self, progress: Progress) -> None:
        if progress.number:
            self._spool.shipped(progress.number, progress.end)
        metrics.SHIPPED.inc(progress.shipped_rows)
        metrics.SHIP_FAILURES.inc(progress.failures)
        metrics.LOG_REFUSED.inc(progress.refused)
        self._oldest_s = None if progress.oldest_ms is None else progress.oldest_ms / 1000
