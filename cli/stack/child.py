"""One process under the supervisor: what it is, starting it, signalling it, and its log."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.stack import leash
from cli.stack.decide import Wanted
from cli.stack.probes import NotReady

LOG_LIMIT_BYTES = 16 * 2**20
"""A log that grows past this is kept as NAME.log.1 (one generation) and begun again."""


@dataclass(frozen=True)
class Child:
    """A part as data: what to run, with what, and how to tell that it is ready."""

    wanted: Wanted
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    """Complete: nothing is inherited beside it."""
    not_ready: NotReady | None = None
    """None: ready once it runs."""
    folder: Path | None = None
    """Working directory; None: the supervisor's."""
    leash: tuple[str, ...] = ()
    """Options of the leash: the user it runs as."""
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    """What the kernel sends when the supervisor dies without stopping it."""

    @property
    def name(self) -> str:
        return self.wanted.name


async def start(child: Child, log: Path) -> asyncio.subprocess.Process:
    """Start it in a session of its own, with its output appended to `log` and nothing to read."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *leash.command(child.command, options=child.leash, death_signal=child.death_signal),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=child.environment,
            cwd=child.folder,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def send(pid: int, number: int) -> None:
    """Signal the process itself; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """Kill the process and what it started in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def rotate(log: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> bool:
    """Keep a log that grew too long as `.1` and empty it; whether it was so.

    The process goes on writing to the same file, which is why it is copied and cut and not renamed: it was opened for
    appending, so the next line lands at the new end. Lines written between the two steps are lost.
    """
    try:
        if log.stat().st_size <= limit_bytes:
            return False
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)
    except OSError:  # a full disk must not stop the supervisor; it tries again
        return False
    return True
