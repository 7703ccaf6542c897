"""The demo's stack: what it started it stops, what somebody else started it leaves alone."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.demo import host
from cli.demo.errors import DemoFailed
from cli.stack import home as homes
from tests.support.waiting import DEADLINE_S, until

PROGRAM = """
import fcntl, os, pathlib, signal, subprocess, sys, time
word, home = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--home") + 1])
with (home / "asked").open("a") as asked:
    asked.write(word + "\\n")
if word == "up" and (home / "hangs").exists():
    signal.signal(signal.SIGTERM, lambda *_: ((home / "stopped").touch(), sys.exit(130)))
    (home / "hangs").unlink()
    time.sleep(3600)
if word == "up":
    (home / "stack.json").write_text(
        '{"serving": "s", "data": "d", "trainer": "t", "validator": "v", "admin_key": "k"}'
    )
sys.exit(1 if word == "up" and (home / "refuses").exists() else 0)
"""
"""Stands where the `relevo` command would: notes what it is asked, and is refused, hangs or succeeds as files tell."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(host, "RELEVO", (sys.executable, "-c", PROGRAM))
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def asked(home: Path) -> list[str]:
    return (home / "asked").read_text().split()


@pytest.mark.parametrize("keep", [False, True])
def test_what_was_started_is_stopped_unless_kept(home: Path, keep: bool) -> None:
    with host.stack(home, 8000, keep=keep) as addresses:
        assert addresses.key == "k"
    assert asked(home) == (["up"] if keep else ["up", "down"])


def test_what_fails_is_stopped_even_when_it_should_be_kept(home: Path) -> None:
    with pytest.raises(DemoFailed, match="a fault"), host.stack(home, 8000, keep=True):
        raise DemoFailed("a fault")
    assert asked(home) == ["up", "down"]


def test_a_stack_started_by_another_meanwhile_is_not_stopped(home: Path) -> None:
    """It was not there at the first look; then `up` was refused, because it is."""
    (home / "refuses").touch()
    with pytest.raises(DemoFailed, match="did not start"), host.stack(home, 8000, keep=False):
        pass
    assert asked(home) == ["up"]


def test_a_stack_that_another_started_in_its_place_is_not_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holders = iter([None, 100, 200])  # before the start, after it, at the end
    monkeypatch.setattr(homes, "holder", lambda _: next(holders))
    with host.stack(home, 8000, keep=False):
        pass
    assert asked(home) == ["up"]


def test_interrupted_while_it_starts_it_lets_the_start_stop_what_it_has_started(home: Path) -> None:
    (home / "hangs").touch()

    def interrupt() -> None:
        until(lambda: not (home / "hangs").exists(), "the start is under way")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt, name="interrupts")
    thread.start()
    with pytest.raises(KeyboardInterrupt), host.stack(home, 8000, keep=False):
        pass
    thread.join(DEADLINE_S)
    assert (home / "stopped").exists()
    assert asked(home) == ["up"]
