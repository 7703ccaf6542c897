"""The stack that is measured: started in a folder of its own, one model released through the public APIs, every process pinned."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg

from cli.addresses import of_stack
from cli.client import Client
from cli.stack.ports import is_free
from cli.wait import wait_for
from services.serving.prediction_log import ship
from shared.registry.states import CycleState

SERVICES = 4
SHIPPER = ship.__name__
STALLED_S = 60
OVER = {CycleState.RELEASED, CycleState.HELD, CycleState.REJECTED, CycleState.FAILED, CycleState.CANCELLED}


@dataclass(frozen=True)
class Stack:
    """A running stack with the measured model live."""

    serving: str
    """Base address of serving."""
    key: str
    model: Path
    """The live version's ONNX file."""
    serving_pid: int
    database_url: str

    def metric(self, name: str) -> float:
        """Sum of all series of one metric that serving exports."""
        text = httpx.get(f"{self.serving}/metrics", timeout=30).text
        lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def logged(self) -> int:
        """Rows of the prediction log in PostgreSQL. The one thing measured that no route tells."""
        return self._count("coalesce(sum(cardinality(keys)), 0)")

    def logged_requests(self) -> int:
        """Different requests of the prediction log in PostgreSQL."""
        return self._count("count(distinct request_id)")

    @contextlib.contextmanager
    def not_shipping(self) -> Iterator[None]:
        """Hold the shippers still, so that what is left to ship of one load takes nothing from another app's."""
        shippers = [pid for pid in descendants(self.serving_pid) if SHIPPER in _command(pid)]
        if not shippers:
            raise RuntimeError("serving has no shipper")
        for pid in shippers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in shippers:
                os.kill(pid, signal.SIGCONT)

    def _count(self, what: str) -> int:
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(f"select {what} from prediction_requests").fetchone()  # type: ignore[arg-type]
        assert row is not None
        return int(row[0])


@contextlib.contextmanager
def running(
    home: Path,
    port_base: int,
    pipeline: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
    *,
    serving_core: int,
    other_core: int,
) -> Iterator[Stack]:
    """Start, release, pin; stopped when the block ends.

    Args:
        pipeline: its spec.
        events: labelled, what it is trained with.
        serving_core: CPU for all processes of serving.
        other_core: CPU for everything else, engines included.
    """
    _relevo("up", "--detach", "--home", str(home), "--port-base", str(port_base))
    try:
        addresses = of_stack(home)
        with Client(addresses) as client:
            _begin(client, pipeline, events)
            version = next(iter(client.versions(pipeline["name"])))
        pids = orjson.loads((home / "stack.json").read_bytes())["pids"]
        for name, pid in pids.items():
            pin(pid, serving_core if name == "serving" else other_core)
        environment = dict(
            entry.split("=", 1)
            for entry in Path(f"/proc/{pids['serving']}/environ").read_text().split("\0")
            if "=" in entry
        )
        digest = version["digest"].removeprefix("sha256:")
        model = next(path for path in (home / "artifacts").rglob(f"*{digest}*") if path.is_file())
        yield Stack(addresses.of("serving"), addresses.key, model, pids["serving"], environment["DATABASE_URL"])
    finally:
        _relevo("down", "--home", str(home))


def free_base(ports: Iterator[int]) -> int:
    """A port that is free like the three after it."""
    return next(
        port for port in ports if port + SERVICES < 65_536 and all(is_free(port + offset) for offset in range(SERVICES))
    )


def pin(pid: int, core: int) -> None:
    """Keep a process, its threads and its descendants on one CPU."""
    for process in (pid, *descendants(pid)):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                os.sched_setaffinity(int(task.name), {core})


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def drain(relevo: Stack, rows: float) -> float:
    """Seconds until nothing is left to ship, or nothing moves for `STALLED_S`. Counting the rows would take PostgreSQL's time,
    so that is done once, at the end: fewer than these are told on stderr.
    """
    began = moved = time.monotonic()
    last = math.inf
    while (left := relevo.metric("relevo_serving_spool_bytes")) > 0 and time.monotonic() - moved < STALLED_S:
        if left != last:
            last, moved = left, time.monotonic()
        time.sleep(0.2)
    took_s = time.monotonic() - began
    if (found := relevo.logged()) < rows:
        print(f"{rows - found:,.0f} rows of {rows:,.0f} have not come to PostgreSQL", file=sys.stderr)
    return took_s


def _begin(client: Client, pipeline: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> None:
    client.apply(dict(pipeline))
    client.ingest(pipeline["name"], b"\n".join(map(orjson.dumps, events)), "application/x-ndjson")
    release(client, pipeline["name"])


def release(client: Client, name: str) -> None:
    """One cycle, to a version that is live."""
    cycle = client.start_cycle(name)
    ended = wait_for(cycle, lambda: client.cycle(name, cycle["id"]), OVER, lambda _: None, deadline_s=600)
    if ended["state"] != CycleState.RELEASED:
        raise RuntimeError(f"the measured model was not released: {ended['state']}: {ended['reason']}")


def _relevo(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "cli.main", *words], stdout=subprocess.DEVNULL, check=True)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that the threads of a process, those that are left, have had."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


@contextlib.contextmanager
def app(module: str, port: int, core: int, **environment: str) -> Iterator[tuple[str, int]]:
    """One of the other apps, `python -m benchmarks.serving.<module>`, on its CPU; its base address and process."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-m", f"benchmarks.serving.{module}"],
        env={**os.environ, **environment, "PORT": str(port), "OMP_NUM_THREADS": "1"},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"benchmarks.serving.{module} ended with {process.returncode}")
            with contextlib.suppress(httpx.TransportError):
                httpx.get(address + "/", timeout=5)
                break
            time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()
