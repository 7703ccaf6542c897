"""kill -9 on serving's worker while it scores: the generation is ready once, and what a killed attempt left answers nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from services.serving.offline.generation import open_generation
from services.serving.offline.repository import current
from services.serving.offline.requests import request
from shared.artifacts import open_store
from shared.config import CommonSettings
from shared.jobs.outbox import dispatch
from shared.jobs.sweeper import sweep
from shared.messaging import make_celery, publish
from shared.registry.session import Sessions
from shared.registry.tables import Precompute
from tests.integration.serving.precomputing import add_dataset, rows
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import tiny_model

DEADLINE_S = 120
ROWS = 60_000
STEPS = ("loading the model", "scoring")


class Workers:
    """Real worker processes, one at a time, and what the background process would do for them."""

    def __init__(self, sessions: Sessions, log: Path) -> None:
        self._sessions, self._log = sessions, log
        self._celery = make_celery("chaos", CommonSettings())
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a worker, as the stack does."""
        words = ["-m", "celery", "-A", "services.serving.worker", "worker", "-Q", "precompute", "--pool", "solo"]
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

    def until(self, true: Callable[[Precompute], bool], row_id: object) -> Precompute:
        """Sweep until the row is so."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with self._sessions.begin() as session:
                sweep(session, max_attempts=100, renudge_after_s=2)
                row = session.get_one(Precompute, row_id)
            if true(row):
                return row
            assert time.monotonic() < deadline, f"{row.state} {row.progress}\n{self._log.read_text()[-3000:]}"
            dispatch(self._sessions, partial(publish, self._celery))
            time.sleep(0.02)


@pytest.fixture
def workers(
    relevo_env: dict[str, str], sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workers]:
    """No worker runs yet; leases are short."""
    monkeypatch.setenv("RELEVO_LEASE_S", "1.5")
    monkeypatch.setenv("RELEVO_MAX_ATTEMPTS", "100")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where killed attempts leave their files
    running = Workers(sessions, tmp_path / "worker.log")
    yield running
    running.kill()


def test_killed_while_it_scores_the_generation_is_ready_once(
    workers: Workers, relevo_env: dict[str, str], sessions: Sessions, tmp_path: Path
) -> None:
    registry = Registry(sessions, open_store(relevo_env["RELEVO_ARTIFACTS_URL"]))
    pipeline = registry.pipeline()
    registry.deploy(registry.version(tiny_model(0.25, weight=0.1)))
    add_dataset(registry, tmp_path, rows(ROWS), rows(1, "T"))
    with sessions.begin() as session:
        row_id = request(session, pipeline, {"dataset": "latest"}, "tester").id
    for step in STEPS:
        workers.start()
        workers.until(lambda row, step=step: row.state == "ready" or row.progress.get("step") == step, row_id)
        workers.kill()
    workers.start()
    done = workers.until(lambda row: row.state not in ("queued", "running"), row_id)
    assert (done.state, done.reason, done.rows) == ("ready", None, ROWS + 1)
    assert done.fence > 1, "it was killed at work"
    with sessions.begin() as session:
        (offline,) = current(session).values()
    generation = open_generation(registry.store, offline, tmp_path)
    assert generation.find(f"F-{ROWS - 1}") is not None
    assert generation.find("T-0") is not None
