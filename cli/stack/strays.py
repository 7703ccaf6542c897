"""Processes that an earlier supervisor of the home left running: finding those that are provably its own, ending them.

A pid alone proves nothing, as numbers are used again. A stray is a process that carries the home in its environment, as
every part and its descendants do; or a PostgreSQL process (which overwrites its environment) that works in the data folder.
"""

import contextlib
import os
import signal
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]

from cli.stack.home import Home

MARK = "RELEVO_STACK_HOME"
GRACE_S = 10.0


def find(home: Home) -> list[psutil.Process]:
    """The home's processes that run now, this process and those it descends from aside. Call with the home locked."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    return [process for process in psutil.process_iter() if process.pid not in spared and _belongs(process, home)]


def end(strays: Iterable[psutil.Process]) -> None:
    """Ask each to stop, then make it."""
    strays = list(strays)
    for stray in strays:
        # Immediate shutdown for PostgreSQL (crash-safe): a smart one would wait for clients that are strays too.
        _signal(stray, signal.SIGQUIT if _name(stray).startswith("postgres") else signal.SIGTERM)
    for stray in _left_after(strays, GRACE_S):
        _signal(stray, signal.SIGKILL)
    _left_after(strays, GRACE_S)


def _left_after(strays: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    alive = [stray for stray in strays if runs(stray)]
    _, left = psutil.wait_procs(alive, timeout=seconds)
    return [stray for stray in left if runs(stray)]


def _belongs(process: psutil.Process, home: Home) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARK) == str(home.root):
            return True
        return _name(process).startswith("postgres") and os.path.realpath(process.cwd()) == os.path.realpath(
            home.postgres
        )
    except (psutil.Error, OSError):
        return False  # gone, or another user's: not ours


def runs(process: psutil.Process) -> bool:
    """Whether it still runs; one that has ended, but that its parent has not yet asked about, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
