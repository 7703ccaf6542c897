"""Both engines for tests: the product's own embedded PostgreSQL and Valkey, started on free ports and stopped at the end."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.stack import account, leash, ports, postgres, valkey

DEADLINE_S = 60.0
PASSWORD = "for-tests-only"
"""The same each time, so that a folder can be used again."""


@dataclass(frozen=True)
class Engines:
    """Addresses of a running pair of servers."""

    database_url: str
    redis_url: str


@contextlib.contextmanager
def running_engines(folder: Path) -> Iterator[Engines]:
    """Run both engines with their data under `folder` (created; kept). fsync is off: tests survive no power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    found = ports.free_ports(avoid=())
    database_port, queue_port = next(found), next(found)
    queue, queue_url = folder / "valkey", valkey.url(queue_port, PASSWORD)
    valkey.configure(queue, queue_port, PASSWORD)
    with (
        running_postgres(folder, database_port) as database_url,
        _running(leash.command(valkey.server()), queue, "valkey", valkey.STOP_SIGNAL, lambda: valkey.not_ready(queue_url)),
    ):  # fmt: skip
        yield Engines(database_url, queue_url)


@contextlib.contextmanager
def running_postgres(folder: Path, port: int) -> Iterator[str]:
    """Run PostgreSQL with its data under `folder` (created; kept, so that it can be started again); gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    data, url = folder / "postgres", postgres.url(port, PASSWORD)
    user = account.for_engine(folder, postgres.programs() / "postgres")
    postgres.initialise(data, PASSWORD, user, durable=False)
    words = leash.command(postgres.server(data, port, {"fsync": "off"}), options=user.options)
    with _running(words, folder, "postgres", postgres.STOP_SIGNAL, lambda: postgres.not_ready(url)):
        yield url


@contextlib.contextmanager
def _running(
    words: list[str], folder: Path, name: str, stop_signal: int, not_ready: Callable[[], Awaitable[str | None]]
) -> Iterator[None]:
    """Run one server until the block ends; enter the block when it answers."""
    log_path = folder / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while (reason := _ask(not_ready)) is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start: {reason}\n{log_path.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(not_ready: Callable[[], Awaitable[str | None]]) -> str | None:
    """Run the question in a loop of its own, leaving alone which loop the thread calls its current one."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_answer(not_ready))
    finally:
        loop.close()


async def _answer(not_ready: Callable[[], Awaitable[str | None]]) -> str | None:
    return await not_ready()
