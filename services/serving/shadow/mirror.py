"""Serving's side of the shadow: samples what was answered, sheds when there is anything better to do, and hands the rest on.

An answer never waits for it: offering is a hash and an append, the rest is a thread that writes to a pipe.
"""

import os
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import orjson
import structlog

from services.serving import metrics
from services.serving.assignment import sampled
from services.serving.config import ServingSettings
from services.serving.models.catalogue import Share
from services.serving.shadow.frames import Frame
from services.serving.shadow.report import Outcome, Report

log = structlog.stdlib.get_logger(__name__)

MOST_BYTES = 64 * 2**20
"""Of records that wait for the process."""
FIRST_RESTART_S, MAX_RESTART_S = 1.0, 60.0
STOP_GRACE_S = 5.0


class Mirror:
    """Hands sampled requests to the shadow's process, which is started with the first of them."""

    def __init__(self, folder: Path, settings: ServingSettings, *, database_url: str, artifacts_url: str) -> None:
        """Prepare; nothing happens before the first request is sampled.

        Args:
            folder: holds the catalogue that the follower saves.
            settings: how much may wait.
            database_url: as libpq takes it.
            artifacts_url: where models are.
        """
        self._folder = folder
        self._settings = settings
        self._environment = {"DATABASE_URL": database_url, "RELEVO_ARTIFACTS_URL": artifacts_url}
        self._lock = threading.Condition()
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._stopping = False
        self._restart_s = FIRST_RESTART_S
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._gone = False
        """The process has ended by itself."""
        self._listener: threading.Thread
        self._sent: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The shadow's process, once there is one."""
        return self._process

    def offer(self, shadow: Share, model: str, call: int, record: Sequence[bytes], *, waiting_rows: int) -> None:
        """Take an answered request if it is in the sample and there is room; on the loop, and never waits.

        Args:
            call: the request's id.
            record: its log record, in pieces.
            waiting_rows: rows that wait for the version that answered it.
        """
        if not sampled(call, shadow.share):
            return
        if waiting_rows > self._settings.shadow_busy_rows:
            self._count(model, Outcome.BUSY)
            return
        size = sum(map(len, record))
        with self._lock:
            full = len(self._waiting) >= self._settings.shadow_waiting or self._waiting_bytes + size > MOST_BYTES
            if not full and not self._stopping:
                self._waiting.append(Frame(model, shadow.version, b"".join(record)))
                self._waiting_bytes += size
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                    self._thread.start()
                self._lock.notify()
        if full:
            self._count(model, Outcome.FULL)

    def stop(self) -> None:
        """End the process; what still waits for it is dropped."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
            thread, process = self._thread, self._process
        if thread is None:
            return
        if process is not None:
            process.terminate()
        thread.join(STOP_GRACE_S)
        if process is not None and process.poll() is None:
            process.kill()
            thread.join(STOP_GRACE_S)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._gone or self._stopping)
                if self._stopping:
                    break
                frame = None if self._gone else self._waiting.popleft()
                self._waiting_bytes -= 0 if frame is None else len(frame.record)
            if frame is None or not self._written(frame):
                self._ended()
        if self._process is not None:
            self._close(self._process)

    def _written(self, frame: Frame) -> bool:
        try:
            process = self._process or self._start()
        except OSError as error:  # no process, memory or descriptor is left
            log.error("the shadow's process cannot be started; trying again", error=type(error).__name__)
            metrics.SHADOW_REQUESTS.labels(frame.model, Outcome.LOST).inc()
            return False
        assert process.stdin is not None
        self._sent[frame.model] += 1
        try:
            process.stdin.write(frame.encode())
            process.stdin.flush()
        except OSError:
            return False
        return True

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services.serving.shadow.score",
                str(self._folder),
                f"--cache={self._settings.spool_dir / 'artifacts'}",
                f"--keep-d={self._settings.shadow_keep_d}",
                f"--max-instances={self._settings.max_instances}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environment},
        )
        with self._lock:
            self._process = process
        self._sent, self._reported = Counter(), Counter()
        self._listener = threading.Thread(target=self._listen, args=(process,), name="shadow-reports", daemon=True)
        self._listener.start()
        return process

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                report = Report.of_document(orjson.loads(line))
                for (model, outcome), count in report.outcomes.items():
                    metrics.SHADOW_REQUESTS.labels(model, outcome).inc(count)
                    self._reported[model] += count
                for model, largest in report.largest:
                    metrics.SHADOW_DELTA.labels(model).observe(largest)
                self._restart_s = FIRST_RESTART_S
        with self._lock:
            self._gone = True
            self._lock.notify()

    def _ended(self) -> None:
        """It is started again with the next request, after a pause; what comes meanwhile fills the queue, and is shed."""
        if (process := self._process) is not None:
            self._close(process)
            self._listener.join()
            for model, count in (self._sent - self._reported).items():
                metrics.SHADOW_REQUESTS.labels(model, Outcome.LOST).inc(count)
            log.error("the shadow's process has ended; starting it again", status=process.returncode)
        with self._lock:
            self._process, self._gone = None, False
            if self._stopping:
                return
        with self._lock:
            self._lock.wait_for(lambda: self._stopping, self._restart_s)
        self._restart_s = min(self._restart_s * 2, MAX_RESTART_S)

    @staticmethod
    def _close(process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        with suppress(OSError):  # what was buffered has nowhere to go
            process.stdin.close()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @staticmethod
    def _count(model: str, outcome: Outcome) -> None:
        metrics.SHADOW_REQUESTS.labels(model, outcome).inc()
