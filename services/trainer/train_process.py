"""The process that trains one claimed run: `python -m services.trainer.train_process RUN FENCE WORKER_PID REQUEST_ID`.

Reads the dataset by its digest, fits the model, stores the ONNX file, and then, in one transaction that checks the fence, ends the
run and writes its version: file before row, always.
"""

import contextlib
import ctypes
import os
import platform
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from services.trainer import repository
from services.trainer.config import trainer_settings
from shared.artifacts import ArtifactStore, open_store
from shared.config import local_cache_dir
from shared.errors import LeaseLost, RelevoError
from shared.golden import encode
from shared.ids import new_id
from shared.jobs import faults
from shared.jobs import lease as leases
from shared.jobs.lease import Lease
from shared.jobs.work import RUN
from shared.manifest import TRAIN_FILE, read_files
from shared.observability.context import log_context
from shared.observability.logging import configure_logging
from shared.registry.session import Sessions, make_sessions, open_engine
from shared.registry.states import RunState
from shared.registry.tables import Dataset, ModelVersion, Run, RunProgress, SpecVersion
from shared.spec import PipelineSpec

log = structlog.get_logger(__name__)

EXIT_RECORDED = 3
"""It ended without a version, and the row says what is to be said: it failed, was given back, or is no longer this attempt's.
Only a cancellation that was asked for meanwhile is still to be written, by the worker."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """Everything a training needs, read in one transaction."""

    run: Run
    dataset: Dataset
    spec: PipelineSpec
    spec_digest: str


def main(arguments: list[str]) -> int:
    """Train, and say by the exit status how it went: 0 succeeded, `EXIT_RECORDED`, or anything else for a crash."""
    run_id, fence, worker_pid, request = uuid.UUID(arguments[0]), int(arguments[1]), int(arguments[2]), arguments[3]
    _die_with(worker_pid)
    settings = trainer_settings()
    configure_logging(settings.log_level, settings.log_format, "trainer-process")
    engine = open_engine(settings.sqlalchemy_url, pool_size=2, application="relevo-training")
    sessions = make_sessions(engine)
    lease = Lease(RUN, run_id, fence, attempt=0, max_attempts=settings.max_attempts, lease_s=settings.lease_s)
    with log_context(request=request, run=str(run_id)):
        try:
            train_run(sessions, open_store(settings.artifacts_url), lease)
        except LeaseLost as error:
            log.warning("stopped", reason=error.detail)
            return EXIT_RECORDED
        except faults.PASSING as error:
            leases.give_back(sessions, lease, faults.describe(error), counts=not faults.is_outage(error))
            return EXIT_RECORDED
        except RelevoError as error:
            return _record_failure(sessions, lease, str(error))
        finally:
            engine.dispose()
    return 0


def train_run(sessions: Sessions, store: ArtifactStore, lease: Lease) -> ModelVersion:
    """Train one claimed run to its version.

    Raises:
        Invalid: the dataset cannot be trained on.
        LeaseLost: another worker has the run, or it was cancelled; nothing was written.
        Unavailable, OperationalError: the artifact store or the database is away; try again.
    """
    # torch takes seconds to import: only here, after the claim.
    import pyarrow.parquet as pq

    from services.trainer.fit_model import fit_model
    from services.trainer.loop import TrainingStopped

    seconds: dict[str, float] = {}
    order = _read_order(sessions, lease)
    _tell(sessions, lease, {"step": "reading", "epochs": _most_epochs(order.spec)})
    with _timed(seconds, "read_s"):
        assert order.dataset.digest is not None
        file = read_files(store, order.dataset.digest)[TRAIN_FILE]
        table = pq.read_table(store.fetch(file.sha256, local_cache_dir("datasets")))
    with _timed(seconds, "train_s"):
        try:
            fitted = fit_model(
                table,
                order.spec,
                metadata={
                    "pipeline": order.spec.name,
                    "task": order.spec.task,
                    "spec_digest": order.spec_digest,
                    "dataset_digest": order.dataset.digest,
                    "run": str(order.run.id),
                },
                on_epoch=_progress_writer(sessions, lease, order.spec),
                should_stop=lease.lost.is_set,
            )
        except TrainingStopped as error:
            raise LeaseLost(str(error)) from error
    _tell(sessions, lease, {"step": "storing"})
    with _timed(seconds, "store_s"):
        digest = store.put_bytes(fitted.onnx_bytes)
        golden = store.put_bytes(encode(fitted.golden))
    version = faults.patiently(
        lambda: _record_version(sessions, lease, order, fitted=fitted, digest=digest, golden=golden, seconds=seconds),
        stopping=lease.stopping,
    )
    log.info("trained", version=version.number, digest=digest, seconds=seconds)
    return version


def environment(device: str) -> dict[str, Any]:
    """What a model was made with, for its lineage."""
    packages = ("relevo", "torch", "onnx", "onnxruntime", "numpy", "spox")
    return {
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in packages},
        "device": device,
        "machine": platform.machine(),
        "system": platform.platform(terse=True),
        "cpus": os.cpu_count(),
    }


def _record_version(
    sessions: Sessions, lease: Lease, order: Order, *, fitted: Any, digest: str, golden: str, seconds: dict[str, float]
) -> ModelVersion:
    """End the run with its version, in one transaction."""
    assert order.dataset.train_end is not None
    assert order.dataset.train_label_mean is not None
    with leases.finish(sessions, lease, RunState.SUCCEEDED) as (session, run):
        if run.cancel_requested:  # asked for since the worker last looked
            raise LeaseLost("The run was cancelled before its model was written.")
        metrics = {**fitted.metrics, **seconds, "parity_max_diff": fitted.parity_max_diff, "epochs": len(fitted.epochs)}
        run.metrics, run.environment = metrics, environment(fitted.device)
        run.progress = {"step": "done", "epoch": len(fitted.epochs), "epochs": len(fitted.epochs)}
        version = ModelVersion(
            id=new_id(),
            pipeline_id=run.pipeline_id,
            number=repository.next_version_number(session, run.pipeline_id),
            run_id=run.id,
            dataset_id=run.dataset_id,
            spec_version=run.spec_version,
            digest=digest,
            size_bytes=len(fitted.onnx_bytes),
            signature={**fitted.signature, "golden": golden},
            metrics=metrics,
            as_of=order.dataset.as_of,
            train_end=order.dataset.train_end,
            train_label_mean=order.dataset.train_label_mean,
        )
        session.add(version)
    return version


def _read_order(sessions: Sessions, lease: Lease) -> Order:
    with sessions() as session:
        run = session.get_one(Run, lease.row_id)
        if run.fence != lease.fence or run.state != RunState.RUNNING:
            raise LeaseLost(f"run {run.id} is {run.state} with fence {run.fence}, not {lease.fence}")
        dataset = session.get_one(Dataset, run.dataset_id)
        spec = session.get_one(SpecVersion, (run.pipeline_id, run.spec_version))
        return Order(run, dataset, PipelineSpec.model_validate(spec.spec), spec.digest)


def _most_epochs(spec: PipelineSpec) -> int:
    """A refit trains once more, for at most as many epochs as the search; early stopping may end both sooner."""
    return spec.training.epochs * (2 if spec.training.refit else 1)


def _progress_writer(sessions: Sessions, lease: Lease, spec: PipelineSpec) -> Callable[[Any], None]:
    """Writes each epoch to the run's row and history; a lost lease is noticed here and stops the training."""
    began = time.monotonic()

    def write(epoch: Any) -> None:
        progress = {
            "step": "training",
            "epoch": epoch.epoch,
            "epochs": _most_epochs(spec),
            "train_loss": epoch.train_loss,
            "valid_loss": epoch.valid_loss,
        }
        _tell(sessions, lease, progress)
        row = {
            "run_id": lease.row_id,
            "fence": lease.fence,
            "epoch": epoch.epoch,
            "train_loss": epoch.train_loss,
            "valid_loss": epoch.valid_loss,
            "is_best": epoch.is_best,
            "seconds": round(time.monotonic() - began, 3),
        }
        with _passing_faults(), sessions.begin() as session:
            session.execute(insert(RunProgress).values(row).on_conflict_do_nothing())

    return write


def _tell(sessions: Sessions, lease: Lease, progress: dict[str, Any]) -> None:
    """Write progress with the lease, and stop when it is lost."""
    with _passing_faults():
        leases.extend(sessions, lease, progress=progress)
    lease.check()


@contextlib.contextmanager
def _passing_faults() -> Iterator[None]:
    """Progress that cannot be written is no reason to lose the training; its end is what must be written."""
    try:
        yield
    except SQLAlchemyError as error:
        log.warning("progress is not written", error=type(error).__name__)


def _record_failure(sessions: Sessions, lease: Lease, reason: str) -> int:
    log.error("run failed", reason=reason)
    leases.fail(sessions, lease, reason)
    return EXIT_RECORDED


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - began, 3)


def _die_with(worker_pid: int) -> None:
    """Have the kernel kill this process when its worker dies, so that no training goes on without a lease (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != worker_pid:  # it died before that
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
