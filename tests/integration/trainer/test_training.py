"""One run, from the claim to its only version: in this process, and supervised in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import psutil
import psycopg
import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from services.trainer import supervise, train_process
from services.trainer.config import TrainerSettings
from shared import scoring
from shared.artifacts import ArtifactStore
from shared.contracts.tasks import TaskName
from shared.errors import ArtifactCorrupt, ArtifactMissing, Invalid, LeaseLost, Unavailable
from shared.feeds import feeds_of
from shared.golden import decode, worst
from shared.jobs import faults
from shared.jobs import lease as leases
from shared.jobs.lease import Lease
from shared.jobs.work import RUN
from shared.registry.session import Sessions
from shared.registry.states import RunState, VersionState
from shared.registry.tables import ModelVersion, Run, RunProgress, SpecVersion
from tests.support.rows import AS_OF, Rows, store_dataset, train_table
from tests.support.waiting import until


@pytest.fixture
def run(rows: Rows, pipeline: uuid.UUID, store: ArtifactStore) -> uuid.UUID:
    """A queued run of a cycle on 300 real rows."""
    dataset = rows.ready_dataset(pipeline, store_dataset(store, train_table()))
    return rows.run(pipeline, dataset, cycle_id=rows.cycle(pipeline))


def claimed(sessions: Sessions, run: uuid.UUID) -> Lease:
    lease = leases.claim(sessions, RUN, run, lease_s=60, max_attempts=5)
    assert lease is not None
    return lease


def on(rows: Rows, pipeline: uuid.UUID, digest: str) -> uuid.UUID:
    return rows.run(pipeline, rows.ready_dataset(pipeline, digest))


def test_a_run_ends_with_one_version(rows: Rows, sessions: Sessions, store: ArtifactStore, run: uuid.UUID) -> None:
    lease = claimed(sessions, run)
    made = train_process.train_run(sessions, store, lease)

    (version,) = rows.all(ModelVersion)
    row: Run = rows.get(Run, run)
    assert version.id == made.id
    assert (version.number, version.run_id, version.dataset_id) == (1, run, row.dataset_id)
    assert (version.state, version.as_of, version.train_end) == (VersionState.CANDIDATE, AS_OF, AS_OF)
    assert version.train_label_mean == 0.5
    assert version.signature == {
        "inputs": [
            {"name": "city", "kind": "category", "required": False},
            {"name": "size", "kind": "number", "required": False},
        ],
        "output": "score",
        "task": "binary",
        "golden": version.signature["golden"],
    }
    golden = decode(store.get(version.signature["golden"]))
    scores = scoring.score(
        scoring.open_model(store.get(version.digest), threads=1),
        feeds_of(
            pa.table({name: [given.get(name) for given in golden.rows] for name in ("city", "size")}),
            version.signature["inputs"],
        ),
    )
    assert worst(golden, scores).accepted
    assert row.state == RunState.SUCCEEDED
    assert row.metrics == version.metrics
    assert 0 <= version.metrics["parity_max_diff"] <= 1e-5
    assert version.metrics["epochs"] == 2
    assert version.metrics.keys() >= {"valid_loss", "rows", "read_s", "train_s", "store_s"}
    assert row.environment["packages"].keys() == {"relevo", "torch", "onnx", "onnxruntime", "numpy", "spox"}
    assert row.environment["device"] in ("cpu", "cuda")
    assert row.progress == {"step": "done", "epoch": 2, "epochs": 2}
    history = sorted(rows.all(RunProgress), key=lambda epoch: epoch.epoch)
    assert [(epoch.epoch, epoch.fence) for epoch in history] == [(1, 1), (2, 1)]
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, row.cycle_id)]

    data = store.get(version.digest)
    assert len(data) == version.size_bytes
    session = onnxruntime.InferenceSession(data)
    written = session.get_modelmeta().custom_metadata_map
    (spec,) = rows.all(SpecVersion)
    assert (written["run"], written["spec_digest"], written["pipeline"]) == (str(run), spec.digest, "trips")
    (score,) = session.run(
        ["score"], {"city": np.array(["Rome", ""], object), "size": np.array([0.5, np.nan], np.float32)}
    )
    assert ((score > 0) & (score < 1)).all()

    with pytest.raises(LeaseLost, match="is succeeded"):
        train_process.train_run(sessions, store, lease)
    assert len(rows.all(ModelVersion)) == 1


def test_the_same_data_gives_the_same_model(
    rows: Rows, sessions: Sessions, store: ArtifactStore, pipeline: uuid.UUID
) -> None:
    digest = store_dataset(store, train_table())
    losses = [
        train_process.train_run(sessions, store, claimed(sessions, on(rows, pipeline, digest))).metrics["valid_loss"]
        for _ in range(2)
    ]
    assert losses[0] == losses[1]
    assert [row.number for row in rows.all(ModelVersion)] == [1, 2]


@pytest.mark.parametrize("when", ["before it begins", "between two epochs", "at the end"])
def test_without_its_lease_a_training_writes_nothing(
    rows: Rows,
    sessions: Sessions,
    store: ArtifactStore,
    run: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    lease = claimed(sessions, run)

    def lose() -> None:
        rows.set(Run, run, fence=2)

    if when == "before it begins":
        lose()
    elif when == "between two epochs":
        extend = leases.extend

        def extend_then_lose(*arguments: Any, **values: Any) -> bool:
            held = extend(*arguments, **values)
            if values["progress"].get("epoch") == 1:
                lose()
            return held

        monkeypatch.setattr(leases, "extend", extend_then_lose)
    else:
        put = store.put_bytes

        def put_then_lose(data: bytes) -> str:
            lose()
            return put(data)

        monkeypatch.setattr(store, "put_bytes", put_then_lose)
    with pytest.raises(LeaseLost):
        train_process.train_run(sessions, store, lease)
    row = rows.get(Run, run)
    assert (row.state, row.metrics, rows.all(ModelVersion), rows.nudges()) == (RunState.RUNNING, {}, [], [])


def test_a_registry_that_is_away_for_a_moment_does_not_cost_the_training(
    rows: Rows, sessions: Sessions, store: ArtifactStore, run: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> bool:
        raise OperationalError("update runs", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(leases, "extend", away)
    train_process.train_run(sessions, store, claimed(sessions, run))
    assert rows.get(Run, run).state == RunState.SUCCEEDED
    assert not supervise._cancel_requested(_broken(), claimed_by(run))


def _broken() -> Any:
    def sessions() -> Any:
        raise OperationalError("select", {}, Exception("the server closed the connection"))

    return sessions


def claimed_by(run: uuid.UUID) -> Lease:
    return Lease(RUN, run, fence=1, attempt=1, max_attempts=5, lease_s=60)


def label(value: float | None) -> pa.Table:
    table = train_table()
    column = table["label"].to_pylist()
    column[7] = value
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(column, pa.float64()))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (label(float("nan")), "1 of 300 .*labels are missing, NaN or infinite"),
        (label(None), "1 of 300 .*labels are missing, NaN or infinite"),
        (label(0.5), "neither 0 nor 1"),
        (train_table().drop_columns(["size"]), "no column size"),
        (train_table().slice(0, 0), "has no rows"),
    ],
    ids=["NaN", "null", "no class", "no column", "empty"],
)
def test_a_table_that_cannot_be_trained_on(
    rows: Rows, sessions: Sessions, store: ArtifactStore, pipeline: uuid.UUID, table: pa.Table, words: str
) -> None:
    run = on(rows, pipeline, store_dataset(store, table))
    with pytest.raises(Invalid, match=words):
        train_process.train_run(sessions, store, claimed(sessions, run))


def corrupt(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(bytes(data))


def test_a_dataset_that_is_damaged_or_gone(
    rows: Rows, sessions: Sessions, store: ArtifactStore, pipeline: uuid.UUID, run: uuid.UUID, tmp_path: Path
) -> None:
    corrupt(tmp_path / "artifacts")
    with pytest.raises(ArtifactCorrupt):
        train_process.train_run(sessions, store, claimed(sessions, run))
    with pytest.raises(ArtifactMissing):
        train_process.train_run(sessions, store, claimed(sessions, on(rows, pipeline, "a" * 64)))


def ended(worker: str, run: uuid.UUID, fence: int) -> int:
    """What the training process does, with this process as its worker."""
    return train_process.main([str(run), str(fence), worker, "from-the-user"])


@pytest.fixture
def as_process(relevo_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("services.trainer.train_process.configure_logging", lambda *_: None)
    monkeypatch.setattr("services.trainer.train_process._die_with", lambda _: None)
    monkeypatch.setattr("services.trainer.train_process.trainer_settings", TrainerSettings)
    return str(os.getpid())


def test_faults_that_stay_end_the_run_with_a_sentence(
    rows: Rows, sessions: Sessions, store: ArtifactStore, pipeline: uuid.UUID, as_process: str
) -> None:
    cases = {
        store_dataset(store, label(float("nan"))): "labels are missing, NaN or infinite",
        "a" * 64: "a" * 64,
    }
    for digest, words in cases.items():
        run = on(rows, pipeline, digest)
        assert ended(as_process, run, claimed(sessions, run).fence) == train_process.EXIT_RECORDED
        row = rows.get(Run, run)
        assert row.state == RunState.FAILED
        assert words in row.reason
    assert rows.all(ModelVersion) == []


def test_faults_that_pass_give_the_run_back(
    rows: Rows, sessions: Sessions, run: uuid.UUID, as_process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("The artifact store cannot be reached.")

    monkeypatch.setattr("services.trainer.train_process.read_files", away)
    assert ended(as_process, run, claimed(sessions, run).fence) == train_process.EXIT_RECORDED
    row = rows.get(Run, run)
    assert (row.state, row.attempt) == (RunState.QUEUED, 0)
    assert row.reason == "The artifact store cannot be reached. It is tried again after 10 s."


@pytest.mark.parametrize(
    ("cause", "attempt", "words"),
    [
        (psycopg.OperationalError, 0, "The registry could not be reached."),
        (psycopg.errors.QueryCanceled, 1, "The registry broke off the work (QueryCanceled)."),
    ],
)
def test_a_database_that_is_away_gives_the_run_back(
    rows: Rows, sessions: Sessions, run: uuid.UUID, as_process: str, monkeypatch: pytest.MonkeyPatch,
    cause: type[psycopg.Error], attempt: int, words: str,
) -> None:  # fmt: skip
    def away(*_: object) -> None:
        raise OperationalError("select", {}, cause("told in words"))

    monkeypatch.setattr("services.trainer.train_process._read_order", away)
    assert ended(as_process, run, claimed(sessions, run).fence) == train_process.EXIT_RECORDED
    row = rows.get(Run, run)
    assert (row.state, row.attempt) == (RunState.QUEUED, attempt)
    assert row.reason.startswith(words)


def test_a_training_that_is_done_waits_for_the_registry(
    rows: Rows, sessions: Sessions, store: ArtifactStore, run: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = away_for_hours(monkeypatch)
    train_process.train_run(sessions, store, claimed(sessions, run))
    assert (rows.get(Run, run).state, len(rows.all(ModelVersion)), tries) == (RunState.SUCCEEDED, 1, [])


def test_a_training_that_failed_waits_for_the_registry(
    rows: Rows, sessions: Sessions, pipeline: uuid.UUID, as_process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on(rows, pipeline, "a" * 64)
    fence = claimed(sessions, run).fence
    tries = away_for_hours(monkeypatch)
    assert ended(as_process, run, fence) == train_process.EXIT_RECORDED
    assert (rows.get(Run, run).state, tries) == (RunState.FAILED, [])


def away_for_hours(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing can be finished for so many tries; an hour passes between two."""
    finish, tries, hours = leases.finish, [1, 1, 1], iter(range(0, 360_000, 3600))

    def away(*arguments: Any) -> Any:
        if tries:
            tries.pop()
            raise OperationalError("select", {}, psycopg.OperationalError("the connection is closed"))
        return finish(*arguments)

    monkeypatch.setattr(leases, "finish", away)
    monkeypatch.setattr(faults, "time", SimpleNamespace(monotonic=lambda: next(hours), sleep=lambda _: None))
    return tries


def test_a_zombie_leaves_the_row_alone(rows: Rows, sessions: Sessions, run: uuid.UUID, as_process: str) -> None:
    lease = claimed(sessions, run)
    rows.set(Run, run, fence=2)
    assert ended(as_process, run, lease.fence) == train_process.EXIT_RECORDED
    assert (rows.get(Run, run).state, rows.all(ModelVersion)) == (RunState.RUNNING, [])


def short(settings: TrainerSettings, **values: Any) -> TrainerSettings:
    return settings.model_copy(update={"lease_s": 10.0, "max_attempts": 5, **values})


class Training(threading.Thread):
    """`supervise.train` on a thread, as Celery calls it."""

    def __init__(self, sessions: Sessions, settings: TrainerSettings, run: uuid.UUID) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.stopping = threading.Event()
        self._arguments = (sessions, settings, run)
        self.start()

    def run(self) -> None:
        supervise.train(*self._arguments, stopping=self.stopping)

    def over(self) -> bool:
        return not self.is_alive()


def epochs(rows: Rows, run: uuid.UUID, fence: int) -> int:
    return sum(row.run_id == run and row.fence == fence for row in rows.all(RunProgress))


def test_supervised_to_success_and_a_repeated_nudge(
    rows: Rows, sessions: Sessions, settings: TrainerSettings, run: uuid.UUID
) -> None:
    supervise.train(sessions, short(settings), run, stopping=threading.Event())
    row = rows.get(Run, run)
    assert (row.state, row.attempt) == (RunState.SUCCEEDED, 1)
    supervise.train(sessions, short(settings), run, stopping=threading.Event())
    assert rows.get(Run, run).attempt == 1
    assert len(rows.all(ModelVersion)) == 1


def test_cancelling_stops_a_training(
    rows: Rows, sessions: Sessions, settings: TrainerSettings, pipeline: uuid.UUID, run: uuid.UUID
) -> None:
    rows.retune(pipeline, epochs=1000, patience=1000)
    training = Training(sessions, short(settings), run)
    until(lambda: epochs(rows, run, 1) > 1, "it trains")
    rows.set(Run, run, cancel_requested=True)
    until(training.over, "it stops")
    row = rows.get(Run, run)
    assert (row.state, row.reason, rows.all(ModelVersion)) == (RunState.CANCELLED, "Cancelled on request.", [])
    assert row.finished_at is not None
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, row.cycle_id)]


@pytest.mark.parametrize("how", ["the worker alone", "the whole group"])
def test_a_worker_that_is_asked_to_stop_hands_its_run_over(
    rows: Rows, sessions: Sessions, settings: TrainerSettings, pipeline: uuid.UUID, run: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch, how: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(supervise, "NEWS_S", 60.0)
    rows.retune(pipeline, epochs=1000, patience=1000)
    for fence in range(1, 4):
        training = Training(sessions, short(settings, max_attempts=1), run)
        until(lambda fence=fence: epochs(rows, run, fence) > 1, "it trains")
        (child,) = (of for of in psutil.Process().children() if "services.trainer.train_process" in of.cmdline())
        if how == "the whole group":
            child.terminate()
            until(lambda child=child: not child.is_running(), "the worker sees its end")
        training.stopping.set()
        until(training.over, "it stops")
        child.wait(90)
        row = rows.get(Run, run)
        assert (row.state, row.attempt, row.lease_until) == (RunState.QUEUED, 0, None)
        assert row.reason == "Its worker was asked to stop; another one takes it up."
        assert rows.nudges() == [(TaskName.TRAIN, run)] * fence
    stopped = threading.Event()
    stopped.set()
    supervise.train(sessions, short(settings), run, stopping=stopped)
    assert rows.get(Run, run).fence == 3, "nor does it take another"
    assert rows.all(ModelVersion) == []


def test_a_training_process_that_was_asked_to_end_alone_counts(
    rows: Rows, sessions: Sessions, settings: TrainerSettings, pipeline: uuid.UUID, run: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As a guard against too much memory asks: another worker would meet it again."""
    monkeypatch.setattr(supervise, "NEWS_S", 0.1)
    rows.retune(pipeline, epochs=1000, patience=1000)
    training = Training(sessions, short(settings), run)
    until(lambda: epochs(rows, run, 1) > 1, "it trains")
    (child,) = (of for of in psutil.Process().children() if "services.trainer.train_process" in of.cmdline())
    child.terminate()
    until(training.over, "it is given back")
    row = rows.get(Run, run)
    assert (row.state, row.attempt) == (RunState.QUEUED, 1)
    assert row.lease_until is not None, "it waits a while"
    assert row.reason.startswith("The training process was killed by signal 15;")


def test_a_run_cancelled_while_its_model_is_stored_has_no_version(
    rows: Rows, sessions: Sessions, store: ArtifactStore, run: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store.put_bytes

    def cancel_then_put(data: bytes) -> str:
        rows.set(Run, run, cancel_requested=True)
        return put(data)

    monkeypatch.setattr(store, "put_bytes", cancel_then_put)
    with pytest.raises(LeaseLost, match="was cancelled"):
        train_process.train_run(sessions, store, claimed(sessions, run))
    assert (rows.get(Run, run).state, rows.all(ModelVersion)) == (RunState.RUNNING, [])


def test_the_worker_records_a_cancellation_that_its_process_met_first(
    rows: Rows, sessions: Sessions, settings: TrainerSettings, run: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def ended(*_: object, **__: object) -> "subprocess.Popen[bytes]":
        rows.set(Run, run, cancel_requested=True)
        return popen([sys.executable, "-c", f"raise SystemExit({train_process.EXIT_RECORDED})"])

    monkeypatch.setattr(subprocess, "Popen", ended)
    monkeypatch.setattr(supervise, "LOOK_S", 60.0)
    supervise.train(sessions, short(settings), run, stopping=threading.Event())
    assert rows.get(Run, run).state == RunState.CANCELLED


def test_a_training_process_that_crashes_gives_its_run_back(
    rows: Rows, sessions: Sessions, settings: TrainerSettings, run: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")  # read by the child alone
    supervise.train(sessions, short(settings), run, stopping=threading.Event())
    row = rows.get(Run, run)
    assert (row.state, row.attempt) == (RunState.QUEUED, 1)
    assert row.reason.startswith("The training process ended with status 1; see the trainer worker's log.")


WORKER = '''
import os, subprocess, sys
child = """
import os, sys
from services.trainer.train_process import _die_with
_die_with(os.getppid())
print(1, flush=True)
sys.stdin.read()
"""
process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
sys.stdin.read()
'''


@pytest.mark.skipif(sys.platform != "linux", reason="Linux kills the orphan; elsewhere its fence stops it")
def test_no_training_outlives_its_worker() -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with worker:
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
    child.wait(90)
    elsewhere = "from services.trainer.train_process import _die_with; _die_with(1)"
    assert subprocess.run([sys.executable, "-c", elsewhere], check=False).returncode == -signal.SIGKILL
