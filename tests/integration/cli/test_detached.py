"""`relevo up --detach` that is cut short: the supervisor it started has ended, and was waited for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from rich.console import Console

from cli.stack import commands
from cli.stack import home as homes

SLEEPS = [sys.executable, "-c", "import time; time.sleep(3600)"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """What is started, each in place of a supervisor; ended in any case."""
    handler = signal.getsignal(signal.SIGTERM)
    popen = subprocess.Popen
    made: list[subprocess.Popen[bytes]] = []

    def stand_in(_: object, **options: Any) -> "subprocess.Popen[bytes]":
        made.append(popen(SLEEPS, **options))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", stand_in)
    yield made
    signal.signal(signal.SIGTERM, handler)
    for process in made:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("cut", "raised"), [(KeyboardInterrupt(), typer.Exit), (PermissionError("status.json"), PermissionError)]
)
def test_the_supervisor_ends_with_it(
    started: list["subprocess.Popen[bytes]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    cut: BaseException, raised: type[BaseException],
) -> None:  # fmt: skip
    def look(_: object) -> NoReturn:
        raise cut

    monkeypatch.setattr(commands.snapshots, "read", look)
    with pytest.raises(raised):
        commands._detached(homes.locate(tmp_path), 8000, Console(stderr=True))
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_a_second_interruption_does_not_leave_it_behind(
    started: list["subprocess.Popen[bytes]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_: object) -> NoReturn:
        wait = started[0].wait

        def again(timeout: float) -> NoReturn:
            monkeypatch.setattr(started[0], "wait", wait)
            raise KeyboardInterrupt

        monkeypatch.setattr(started[0], "wait", again)
        os.kill(os.getpid(), signal.SIGTERM)  # as an interruption: `up` was asked to stop
        raise AssertionError("SIGTERM interrupts")

    monkeypatch.setattr(commands.snapshots, "read", look)
    with pytest.raises(typer.Exit):
        commands._detached(homes.locate(tmp_path), 8000, Console(stderr=True))
    assert [process.returncode for process in started] == [-signal.SIGTERM]
