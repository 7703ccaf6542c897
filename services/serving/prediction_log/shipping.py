"""Serving's side of the shipper: starts its process, hears its progress, starts it again when it dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import orjson
import structlog

from services.serving import metrics
from services.serving.prediction_log.shipper import END, Progress
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
        self._told_oldest_ms: int | None = None
        self._thread = threading.Thread(target=self._run, name="log-shipping", daemon=True)

    @property
    def lag_s(self) -> float:
        """Age of the oldest prediction that waits on disk or is being shipped; 0 when none does. Reads a few bytes of a file."""
        waiting = [at_ms for at_ms in (self._spool.oldest_ms, self._told_oldest_ms) if at_ms is not None]
        return max(0.0, time.time() - min(waiting) / 1000) if waiting else 0.0

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def stop(self) -> None:
        """Let the process ship what is left, for its time, then end. What remains is shipped by the next process."""
        with self._lock:
            self._stopping.set()
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError):  # it has just ended
                    os.write(self._process.stdin.fileno(), END)
        self._thread.join(self._flush_s + STOP_GRACE_S)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join(STOP_GRACE_S)

    def _run(self) -> None:
        # Inherited by the process: a signal to all of serving's processes must not end it before serving has drained.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        restart_s = FIRST_RESTART_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            reason = self._run_process()
            if self._stopping.is_set():
                return
            restart_s = (
                FIRST_RESTART_S if time.monotonic() - began_s > MAX_RESTART_S else min(restart_s * 2, MAX_RESTART_S)
            )
            metrics.SHIP_FAILURES.inc()
            log.error("the prediction log is not shipped; starting the shipper again", reason=reason, in_s=restart_s)
            self._stopping.wait(restart_s)

    def _run_process(self) -> str:
        """Start the process and hear it until it ends; returns why it did. Never raises, and leaves no process."""
        try:
            with self._lock:
                if self._stopping.is_set():
                    return "serving stops"
                self._process = process = self._started()
            assert process.stdout is not None
            for line in process.stdout:
                self._hear(Progress(**orjson.loads(line)))
            return f"it ended with status {process.wait(STOP_GRACE_S)}"
        except Exception as error:  # noqa: BLE001 - whatever it was, the log must be shipped
            return f"{type(error).__name__}: {error}"
        finally:
            self._told_oldest_ms = None
            self._reap()

    def _reap(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

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
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "DATABASE_URL": self._database_url},
        )

    def _hear(self, progress: Progress) -> None:
        if progress.number:
            self._spool.shipped(progress.number, progress.end)
        metrics.SHIPPED.inc(progress.shipped_rows)
        metrics.SHIP_FAILURES.inc(progress.failures)
        metrics.LOG_REFUSED.inc(progress.refused)
        metrics.LOG_DAMAGED.inc(progress.damaged)
        self._told_oldest_ms = progress.oldest_ms
