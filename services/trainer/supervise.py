"""The worker's side of a training run: claim it, keep its lease alive, and watch the process that trains.

Training runs in a process of its own: it frees its (GPU) memory when it ends, a crash in native code costs the attempt and not the
worker, and a lost lease or a cancellation can stop it at once. The process dies with its worker (`train_process`).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import structlog
from sqlalchemy.exc import SQLAlchemyError

from services.trainer.config import TrainerSettings
from services.trainer.train_process import EXIT_RECORDED
from shared.errors import LeaseLost
from shared.jobs import lease as leases
from shared.jobs.lease import Lease
from shared.jobs.work import RUN
from shared.observability.context import request_id
from shared.observability.metrics import JOB_SECONDS, JOBS
from shared.registry.session import Sessions
from shared.registry.states import RunState
from shared.registry.tables import Run

log = structlog.get_logger(__name__)

LOOK_S = 1.0
OUTCOMES = {0: "succeeded", EXIT_RECORDED: "recorded"}
"""What the exit status of the process says, when it says that the run's end is in its row."""
STOP_S = 5.0
"""How long a process that was asked to stop may take before it is killed."""
NEWS_S = 2.0
"""How long after the process the worker itself may learn that both were asked to stop."""


def train(sessions: Sessions, settings: TrainerSettings, run_id: uuid.UUID, *, stopping: threading.Event) -> None:
    """Carry out one run, if it is to be had: train in a child process until it ends, is cancelled or loses its lease.

    Args:
        stopping: set when this worker was asked to stop. It then takes no run, and hands the one it has to another worker.
    """
    lease = leases.claim(
        sessions, RUN, run_id, lease_s=settings.lease_s, max_attempts=settings.max_attempts, stopping=stopping
    )
    if lease is None:
        log.info("nothing to do: the run has ended, another worker has it, or this one stops")
        return
    began = time.monotonic()
    with leases.heartbeat(sessions, lease):
        outcome = _supervise(sessions, lease)
    JOBS.labels(RUN.name, outcome).inc()
    JOB_SECONDS.labels(RUN.name).observe(time.monotonic() - began)
    log.info("run ended", outcome=outcome, attempt=lease.attempt)


def _supervise(sessions: Sessions, lease: Lease) -> str:
    arguments = [str(lease.row_id), str(lease.fence), str(os.getpid()), request_id.get()]
    command = [sys.executable, "-m", "services.trainer.train_process", *arguments]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while not lease.stopping.is_set() and not _ended(child):
            if lease.lost.is_set():
                return _outcome_of_lost(child)
            if _cancel_requested(sessions, lease):
                _stop(child)
                return _record_cancelled(sessions, lease)
    finally:
        _stop(child)
    status = child.returncode
    if status == EXIT_RECORDED and _cancel_requested(sessions, lease):
        return _record_cancelled(sessions, lease)
    if status in OUTCOMES:
        return OUTCOMES[status]
    if lease.stopping.is_set() or (status == -signal.SIGTERM and _stops_too(lease.stopping)):
        return "handed-over" if leases.hand_over(sessions, lease) else "recorded"
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    leases.give_back(sessions, lease, f"The training process {how}; see the trainer worker's log.", counts=True)
    return "crashed"


def _stops_too(stopping: threading.Event) -> bool:
    """Whether the worker is asked to stop as its process was: by a signal to the whole group, not by one to the process alone.

    Looked at, not waited on: the event is set by a signal handler on this very thread.
    """
    deadline = time.monotonic() + NEWS_S
    while not stopping.is_set() and time.monotonic() < deadline:
        time.sleep(0.05)
    return stopping.is_set()


def _ended(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(LOOK_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _outcome_of_lost(child: subprocess.Popen[bytes]) -> str:
    """The row is no longer running under this lease: the process itself may just have ended it, and is about to exit."""
    try:
        return OUTCOMES.get(child.wait(STOP_S), "lease-lost")
    except subprocess.TimeoutExpired:
        return "lease-lost"


def _cancel_requested(sessions: Sessions, lease: Lease) -> bool:
    try:
        with sessions() as session:
            run = session.get(Run, lease.row_id)
            return run is not None and run.fence == lease.fence and run.cancel_requested
    except SQLAlchemyError as error:  # away for a moment: no reason to lose the training
        log.warning("cannot look for a cancellation, trying again", error=type(error).__name__)
        return False


def _record_cancelled(sessions: Sessions, lease: Lease) -> str:
    try:
        with leases.finish(sessions, lease, RunState.CANCELLED) as (_, run):
            run.reason = "Cancelled on request."
    except LeaseLost:
        return "recorded"  # the process had finished the run just before it was stopped
    return "cancelled"


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, then make it: however the wait is broken off, it has ended after this."""
    try:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)
    finally:
        child.kill()
        child.wait()
