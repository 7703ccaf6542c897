"""The trainer's worker and the background process as real processes in groups of their own, to be killed and frozen."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select, text
from sqlmodel import col

from shared.artifacts import ArtifactStore
from shared.registry.states import RunState
from shared.registry.tables import Run, RunProgress
from tests.support.rows import Rows, store_dataset, train_table
from tests.support.waiting import DEADLINE_S, until

SHORT = {
    "RELEVO_LEASE_S": "3",
    "RELEVO_SWEEP_S": "0.3",
    "RELEVO_MAX_ATTEMPTS": "1000",
    "TRAINER_RENUDGE_AFTER_S": "2",
    "OMP_NUM_THREADS": "1",
}
"""Settings with which death is noticed within seconds, no run ever gives up, and tiny models do not fight over the cores."""
WORKER = ("celery", "-A", "services.trainer.worker", "worker", "-Q", "train", "--pool", "solo")
BACKGROUND = ("services.trainer.background",)
ENDLESS, BRIEF = {"epochs": 1000, "patience": 1000}, {"epochs": 2, "patience": 2}


class Group:
    """One process and its children; the environment is this process's."""

    def __init__(self, folder: Path, *module: str) -> None:
        self.log = folder / f"{uuid.uuid4().hex[:8]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *module], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """To the whole group."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """-9, and wait until nothing of the group is left."""
        if self.process.poll() is None:
            try:
                children = psutil.Process(self.process.pid).children(recursive=True)
            finally:
                self.signal(signal.SIGKILL)
                self.process.wait(DEADLINE_S)
            psutil.wait_procs(children, DEADLINE_S)

    def children(self) -> list[psutil.Process]:
        """The training processes of a worker."""
        return psutil.Process(self.process.pid).children()


class Trainer:
    """Starts and ends the processes, and looks at what they do."""

    def __init__(self, rows: Rows, store: ArtifactStore, folder: Path) -> None:
        self.rows, self.store, self.folder = rows, store, folder
        self.groups: list[Group] = []
        self.pipeline = rows.pipeline()
        self._digest = store_dataset(store, train_table())

    def start(self, *module: str) -> Group:
        self.groups.append(Group(self.folder, *module))
        return self.groups[-1]

    def close(self) -> None:
        with contextlib.ExitStack() as all_of_them:  # one that cannot be killed does not keep the others
            for group in self.groups:
                all_of_them.callback(group.kill)

    def queue(self) -> uuid.UUID:
        """A run that waits; the sweeper nudges it."""
        return self.rows.run(self.pipeline, self.rows.ready_dataset(self.pipeline, self._digest))

    def run(self, run: uuid.UUID) -> Run:
        found = self.rows.get(Run, run)
        assert isinstance(found, Run)
        return found

    def trains(self, run: uuid.UUID, attempt: int, epochs: int = 0) -> bool:
        """Whether this attempt is running and has so many epochs behind it."""
        row = self.run(run)
        assert row.state in (RunState.QUEUED, RunState.RUNNING), f"{row.state}: {row.reason}\n{self.logs()}"
        if row.state != RunState.RUNNING or row.attempt < attempt:
            return False
        with self.rows.sessions.begin() as session:
            done = select(func.count()).where(col(RunProgress.run_id) == run, col(RunProgress.fence) == row.fence)
            return (session.scalar(done) or 0) >= epochs

    def succeeded(self, run: uuid.UUID) -> None:
        """Wait for its end."""
        until(lambda: self.run(run).finished_at is not None, f"the run ends\n{self.logs()}")
        assert self.run(run).state == RunState.SUCCEEDED, f"{self.run(run).reason}\n{self.logs()}"

    def oracle(self) -> dict[str, Any]:
        """What must hold of all runs: each ended; one version for a succeeded one, none for another."""
        query = """
            select count(*) as runs,
                   count(*) filter (where state not in ('succeeded', 'failed', 'cancelled')) as open,
                   count(*) filter (where state = 'succeeded' and versions <> 1) as wrong,
                   count(*) filter (where state <> 'succeeded' and versions <> 0) as orphaned,
                   count(*) filter (where finished_at is null or lease_until is not null) as loose
            from (select r.*, (select count(*) from versions v where v.run_id = r.id) as versions from runs r) r
        """
        with self.rows.sessions.begin() as session:
            return dict(session.execute(text(query)).mappings().one())

    def logs(self) -> str:
        return "\n".join(f"--- {group.log.name}\n{group.log.read_text()[-1500:]}" for group in self.groups)


def all_well(runs: int) -> dict[str, int]:
    """What the oracle should say."""
    return {"runs": runs, "open": 0, "wrong": 0, "orphaned": 0, "loose": 0}
