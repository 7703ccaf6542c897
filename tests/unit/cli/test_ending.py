"""A program that was started here ends, also one that does not listen."""

import signal
import subprocess
import sys

import pytest

from cli import ending

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(1, flush=True)
time.sleep(3600)
"""
STUBBORN = """
import os, signal, sys, time
def again(*_):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    os.write(1, b"once\\n")
signal.signal(signal.SIGTERM, again)
print(1, flush=True)
while True:
    time.sleep(3600)
"""


def started(program: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_asked_it_ends_by_itself() -> None:
    with started(POLITE) as process:
        ending.end(process)
        assert process.returncode == 7


def test_one_that_does_not_listen_is_killed() -> None:
    with started(DEAF) as process:
        ending.end(process, within_s=0.2)
        assert process.returncode == -signal.SIGKILL


def test_ctrl_c_while_it_waits_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(STUBBORN) as process:
        wait = process.wait

        def interrupted(timeout: float | None = None) -> int:
            monkeypatch.setattr(process, "wait", wait)
            assert process.stdout is not None
            assert process.stdout.readline() == b"once\n"
            raise KeyboardInterrupt

        monkeypatch.setattr(process, "wait", interrupted)
        ending.end(process)
        assert process.returncode == 7
