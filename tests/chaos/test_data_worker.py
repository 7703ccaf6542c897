"""kill -9 on the data worker in each step of a build: the dataset is ready once, with the digest of an undisturbed build.

Asked to stop, it hands the build over, and no attempt is used up.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.config import CommonSettings
from shared.jobs.lease import STOPPED
from shared.jobs.outbox import dispatch
from shared.jobs.sweeper import sweep
from shared.messaging import make_celery, publish
from shared.registry.session import lock_for_ingest
from shared.registry.tables import Dataset
from tests.integration.data.conftest import Service, service, settings, trips
from tests.unit.data.samples import iso, labelled

__all__ = ["service", "settings", "trips"]

STEPS = ("reading events, predictions and labels", "joining and writing", "computing statistics")
DEADLINE_S = 120
EVENTS = 20_000


class Workers:
    """Real worker processes, one at a time, and what the background process would do for them."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service, self._log = service, log
        self._celery = make_celery("chaos", service.settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a worker, as the stack does."""
        words = ["-m", "celery", "-A", "services.data.worker", "worker", "-Q", "data", "--pool", "solo"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to the whole process group, if one runs."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGTERM to the worker, as whoever deploys anew sends it, and wait for its end."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._process = None

    def sweep(self) -> None:
        """Expired leases, waiting rows, unsent nudges."""
        with self.service.sessions.begin() as session:
            sweep(session, max_attempts=100, renudge_after_s=2)
        dispatch(self.service.sessions, partial(publish, self._celery))

    def until(self, true: Callable[[Dataset], bool], number: int) -> Dataset:
        """Sweep until the dataset's row is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not true(row := self.service.row(number)):
            assert time.monotonic() < deadline, f"{row.state} {row.progress}\n{self._log.read_text()[-3000:]}"
            self.sweep()
            time.sleep(0.02)
        return row


@pytest.fixture
def workers(trips: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """No worker runs yet; leases are short."""
    monkeypatch.setenv("RELEVO_LEASE_S", "1.5")
    monkeypatch.setenv("RELEVO_MAX_ATTEMPTS", "100")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where killed builds leave their files
    trips.settings = CommonSettings()
    running = Workers(trips, tmp_path / "worker.log")
    yield running
    running.kill()


def ask(service: Service) -> Any:
    return service.post("/pipelines/trips/datasets", {"as_of": iso(31)}, 202)


def test_killed_in_every_step_it_is_ready_once_and_the_same(workers: Workers) -> None:
    service = workers.service
    for start in range(0, EVENTS, 5000):
        service.events([labelled(number, number * 30 / EVENTS) for number in range(start, start + 5000)])
    killed = ask(service)
    for step in STEPS:
        workers.start()
        workers.until(lambda row, step=step: row.state == "ready" or row.progress.get("step") == step, killed["number"])
        workers.kill()
    workers.start()
    done = workers.until(lambda row: row.state not in ("queued", "building"), killed["number"])
    assert (done.state, done.reason) == ("ready", None)
    workers.kill()
    fence = done.fence
    workers.sweep()
    assert service.row(killed["number"]).fence == fence

    undisturbed = ask(service)
    service.build(uuid.UUID(undisturbed["id"]))

    assert service.row(undisturbed["number"]).digest == done.digest


def test_asked_to_stop_it_hands_its_build_over(workers: Workers) -> None:
    service = workers.service
    service.events([labelled(number, number * 30 / 100) for number in range(100)])
    number = ask(service)["number"]
    with service.sessions() as stalled:
        lock_for_ingest(stalled)  # the build waits for that append
        workers.start()
        workers.until(lambda row: row.state == "building", number)
        workers.stop()
    row = service.row(number)
    assert (row.state, row.attempt, row.reason) == ("queued", 0, STOPPED)
    workers.start()
    done = workers.until(lambda row: row.state not in ("queued", "building"), number)
    assert (done.state, done.attempt) == ("ready", 1)
