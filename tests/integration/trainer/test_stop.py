"""Stopping a training process: it has ended and is waited for, however the wait is broken off."""

import signal
import subprocess
import sys

import pytest

from services.trainer import supervise

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"


def test_a_worker_that_is_interrupted_while_it_stops_a_training_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    wait = child.wait

    def interrupted(timeout: float | None = None) -> int:
        monkeypatch.setattr(child, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "wait", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            supervise._stop(child)
        assert child.returncode == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()
