"""Serving's side of the shipper: whatever fails, the process is started again, none is left behind, and the lag is true."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import REGISTRY

from services.serving.prediction_log import shipping as module
from services.serving.prediction_log.record import head
from services.serving.prediction_log.shipper import END
from services.serving.prediction_log.shipping import Shipping
from services.serving.prediction_log.spool import Spool
from tests.support.waiting import DEADLINE_S, until

SHIPS = """
import sys
print('{"number": 1, "end": 10000, "shipped_rows": 5}', flush=True)
if sys.stdin.readline() == "end\\n":
    print('{"shipped_rows": 1}', flush=True)
"""
GARBLED = """
import time
print("Traceback (most recent call last):", flush=True)
time.sleep(600)
"""


class World:
    """A spool with one record and its shipping, whose process is any program."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spool = Spool(folder, limit_bytes=10**6)
        self.shipping = Shipping(folder, self.spool, database_url="", interval_s=1, flush_s=DEADLINE_S)
        self.programs: list[str | OSError] = []
        """What is started next; the last one again and again."""
        self.started: list[psutil.Process] = []
        self._popen = subprocess.Popen
        monkeypatch.setattr(module, "FIRST_RESTART_S", 0.01)
        monkeypatch.setattr(subprocess, "Popen", self._start)

    def _start(self, _: list[str], **options: object) -> "subprocess.Popen[bytes]":
        program = self.programs.pop(0) if len(self.programs) > 1 else self.programs[0]
        if isinstance(program, OSError):
            raise program
        process = self._popen([sys.executable, "-c", program], **options)  # type: ignore[call-overload]
        self.started.append(psutil.Process(process.pid))
        return process  # type: ignore[no-any-return]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.shipping.stop()
    assert not any(process.is_running() for process in made.started), "no process is left"


def counted() -> tuple[float, float]:
    shipped, failures = (
        REGISTRY.get_sample_value(f"relevo_serving_{name}_total") for name in ("shipped", "ship_failures")
    )
    assert shipped is not None
    assert failures is not None
    return shipped, failures


def logged_at(at_s: float) -> bytes:
    return head(int(at_s * 1000), 1) + b"{}"


def test_a_process_that_cannot_be_started_is_started_later(world: World) -> None:
    shipped, failures = counted()
    world.programs = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOMEM, "No memory"), SHIPS]
    world.shipping.start()
    until(lambda: counted()[0] == shipped + 5, "the third one ships")
    assert counted()[1] == failures + 2


def test_a_process_that_says_what_nobody_understands_is_killed_and_another_started(world: World) -> None:
    shipped, failures = counted()
    world.programs = [GARBLED, SHIPS]
    world.shipping.start()
    until(lambda: counted()[0] == shipped + 5, "the second one ships")
    assert counted()[1] == failures + 1
    assert not world.started[0].is_running()


def test_a_spool_that_fails_to_take_progress_ends_no_shipping(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped, failures = counted()
    world.programs = [SHIPS]
    calls: list[int] = []

    def fails_at_first(number: int, end: int) -> None:
        calls.append(number)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(world.spool, "shipped", fails_at_first)
    world.shipping.start()
    until(lambda: counted()[0] == shipped + 5, "the second one ships")
    assert counted()[1] == failures + 1
    assert not world.started[0].is_running()


def test_the_lag_grows_while_nobody_ships(world: World) -> None:
    world.programs = [OSError(errno.EMFILE, "Too many open files")]
    world.shipping.start()
    assert world.shipping.lag_s == 0
    began_s = time.time() - 100
    world.spool.append(logged_at(began_s), logged_at(began_s + 50))
    for _ in range(2):
        assert time.time() - began_s - 1 < world.shipping.lag_s <= time.time() - began_s + 1
    world.spool.shipped(1, 10**6)
    assert world.shipping.lag_s == 0


def test_the_process_is_told_to_end_and_no_signal_to_all_ends_it(world: World) -> None:
    world.programs = [SHIPS]
    shipped, failures = counted()
    world.shipping.start()
    until(lambda: counted()[0] == shipped + 5, "it ships")
    (process,) = world.started
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    world.shipping.stop()
    assert counted() == (shipped + 6, failures)


@pytest.mark.parametrize(("said", "status"), [(END, 0), (b"", 1)], ids=["told to end", "serving is gone"])
def test_the_real_process_ends_by_its_stdin(tmp_path: Path, said: bytes, status: int) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "services.serving.prediction_log.ship", str(tmp_path / "replica-0"), "--sealed-below=1",
            "--interval-s=1", "--flush-s=30", f"--parent={os.getpid()}",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, "DATABASE_URL": "postgresql://127.0.0.1:1"},
    )  # fmt: skip
    with process:
        try:
            assert process.stdin is not None
            process.stdin.write(said)
            process.stdin.flush()
            if not said:
                process.stdin.close()
            assert process.wait(DEADLINE_S) == status
        finally:
            process.kill()
