"""Throughput of serving in several processes to that in one, and whether the load is even.

    python -m benchmarks.serving.workers [--workers 2] [--connections 64] [--rounds 3] [--seconds 5]

Both run beside each other on one stack and are loaded in turns by wrk, which is kept on one core; nothing else is pinned. On two
cores the load generator, the shippers and PostgreSQL want what the second process could have: the ratio says little there, and the
processor time of a request says what several processes cost.

Last line: `{"cores", "workers", "ratio": {rows: ...}, "processor_us": {rows: {processes: ...}}, "p99_ms": {rows: {processes: ...}},
"busiest_to_mean": {"connections", "processor"}, "scrape_ms": {processes: ...}, "supervisor_share", "errors"}`: medians of the
rounds; processor time is that of the processes which answer and of the one before them, without their shippers.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median

import httpx
import psutil  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving import rows, stack, wrk
from cli.stack.ports import free_ports

ROWS = (1, 100)
READY_WITHIN_S = 120


@dataclass
class Service:
    """Serving in that many processes, with what was measured of it."""

    workers: int
    url: str
    process: psutil.Process
    loads: dict[int, list[wrk.Load]] = field(default_factory=lambda: {size: [] for size in ROWS})
    connections: list[float] = field(default_factory=list)
    """Of the busiest worker to the mean."""
    processor: list[float] = field(default_factory=list)
    """As `connections`."""
    supervisor: list[float] = field(default_factory=list)
    """Processor time of the process before the workers, to that of all."""
    request_s: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in ROWS})
    """Processor time of a request."""
    scrape_s: list[float] = field(default_factory=list)

    def load(self, size: int, key: str, options: argparse.Namespace, core: int) -> None:
        """One round."""
        answering = self._answering()
        before = {process: _cpu_s(process) for process in [self.process, *answering]}
        looking = threading.Timer(options.seconds / 2, self._look)
        looking.start()
        body = rows.request_body(size)
        url = f"{self.url}/predict"
        load = wrk.run(url, body, key=key, connections=options.connections, seconds=options.seconds, core=core)
        looking.join()
        used = [_cpu_s(process) - before[process] for process in answering]
        own = _cpu_s(self.process) - before[self.process] if self.workers > 1 else 0.0
        self.loads[size].append(load)
        self.processor.append(max(used) / mean(used))
        self.supervisor.append(own / (own + sum(used)))
        self.request_s[size].append((own + sum(used)) / load.requests)

    def _look(self) -> None:
        began = time.perf_counter()
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        self.scrape_s.append(time.perf_counter() - began)
        open_now = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "relevo_serving_worker_connections"
        ]
        self.connections.append(max(open_now) / mean(open_now) if open_now else 1.0)

    def _answering(self) -> list[psutil.Process]:
        if self.workers == 1:
            return [self.process]
        return [child for child in self.process.children() if "services.serving.workers.worker" in child.cmdline()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as life:
        relevo = life.enter_context(
            stack.running(
                Path(folder) / "home", stack.free_base(free_ports(())), rows.PIPELINE,
                rows.training_events(datetime.now(UTC)), serving_core=cores[0], other_core=cores[-1],
            )
        )  # fmt: skip
        services = [
            life.enter_context(running(relevo, workers, Path(folder) / f"spool-{workers}"))
            for workers in (1, options.workers)
        ]
        for turn in range(options.rounds):
            for size in ROWS:
                for service in services:
                    service.load(size, relevo.key, options, cores[-1])
                one, many = (service.loads[size][-1] for service in services)
                print(
                    f"round {turn + 1}, {size:3} rows: {one.rate:8,.0f} requests/s in one process, {many.rate:8,.0f} in "
                    f"{options.workers}: {many.rate / one.rate:.2f}"
                )
    one, many = services
    result = {
        "cores": len(cores),
        "workers": options.workers,
        "ratio": {
            size: round(
                median(more.rate / less.rate for less, more in zip(one.loads[size], many.loads[size], strict=True)), 3
            )
            for size in ROWS
        },
        "processor_us": {
            size: {service.workers: round(median(service.request_s[size]) * 1e6, 1) for service in services}
            for size in ROWS
        },
        "p99_ms": {
            size: {
                service.workers: round(median(load.p99_ms for load in service.loads[size]), 2) for service in services
            }
            for size in ROWS
        },
        "busiest_to_mean": {
            "connections": round(median(many.connections), 3),
            "processor": round(median(many.processor), 3),
        },
        "scrape_ms": {service.workers: round(median(service.scrape_s) * 1e3, 1) for service in services},
        "supervisor_share": round(median(many.supervisor), 4),
        "errors": sum(load.errors for service in services for loads in service.loads.values() for load in loads),
    }
    print(json.dumps(result))


@contextlib.contextmanager
def running(relevo: stack.Stack, workers: int, spool: Path) -> Iterator[Service]:
    """Serving in that many processes on the stack's registry, ready."""
    port = next(free_ports(()))
    entries = Path(f"/proc/{relevo.serving_pid}/environ").read_text().split("\0")
    environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    process = subprocess.Popen(
        [sys.executable, "-m", "services.serving", f"--workers={workers}", f"--port={port}"],
        env={**environment, "SERVING_SPOOL_DIR": str(spool), "RELEVO_LOG_LEVEL": "ERROR"},
    )
    service = Service(workers, f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not _ready(service):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"serving in {workers} processes is not ready")
            time.sleep(0.1)
        yield service
    finally:
        process.terminate()
        process.wait(60)


def _ready(service: Service) -> bool:
    try:
        if httpx.get(f"{service.url}/readyz").status_code != httpx.codes.OK:
            return False
        text = httpx.get(f"{service.url}/metrics").text
    except httpx.TransportError:
        return False
    return service.workers == 1 or f"relevo_serving_workers_ready {float(service.workers)}" in text


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


if __name__ == "__main__":
    main()
