"""Serving in several processes: even load, metrics of all, one that is killed, a drain, a start that fails."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from services.serving.workers import last_words
from shared.registry.session import Sessions
from tests.chaos.test_serving_kill import load, logged
from tests.integration.serving.conftest import bearer, flight, registry, until
from tests.integration.serving.registry import ADMIN_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

__all__ = ["registry"]

WORKERS = 2
CONNECTIONS = 16
STARTUP_FAILURE = 3


class Service:
    """`python -m services.serving --workers 2` and a client with many connections."""

    def __init__(self, folder: Path, client: httpx.AsyncClient) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = client
        self.log = folder / "serving.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """Begin."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "services.serving", "--workers", str(WORKERS), "--port", str(self.port), *options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ), start_new_session=True,
            )  # fmt: skip
        return self.process

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        assert self.process is not None
        return [child for child in psutil.Process(self.process.pid).children() if is_worker(child)]

    async def all_ready(self) -> None:
        """Wait until every worker can predict."""

        async def are() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            try:
                return await self.metric("relevo_serving_workers_ready") == WORKERS
            except httpx.TransportError:
                return False

        await until(are, "the workers are ready")

    async def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """All samples of a scrape."""
        answer = await self.client.get(f"{self.url}/metrics")
        assert answer.status_code == 200, answer.text
        families = text_string_to_metric_families(answer.text)
        return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]

    async def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's series with these labels."""
        return sum(
            value for found, has, value in await self.metrics() if found == name and labels.items() <= has.items()
        )

    async def connections(self) -> list[int]:
        """Open connections of each worker."""
        return [int(value) for name, _, value in await self.metrics() if name == "relevo_serving_worker_connections"]

    async def live(self) -> None:
        """Wait until every worker predicts with the one version there is."""
        await self.all_ready()
        promoted = await self.client.post(f"{self.url}/admin/models/delays/promote", json={"version": 1})
        assert promoted.status_code == 200, promoted.text

        async def applied_by_all() -> bool:
            return await self.metric("relevo_serving_swaps_total") == WORKERS

        await until(applied_by_all, "every worker follows")


def is_worker(process: psutil.Process) -> bool:
    """Whether it is one that lives."""
    try:
        return "services.serving.workers.worker" in process.cmdline()
    except psutil.Error:
        return False


def left_behind(worker: psutil.Process) -> float:
    """The predictions that are counted in the memory which outlives a worker."""
    for link in Path(f"/proc/{worker.pid}/fd").iterdir():
        if "relevo-counted" in str(link.readlink()):
            memory = os.open(link, os.O_RDONLY)
            try:
                return sum(
                    counted.values[0]
                    for counted in last_words.read(memory)
                    if counted.stands.name == "relevo_serving_predictions"
                )
            finally:
                os.close(memory)
    raise AssertionError("no such memory")


def unshipped(folder: Path) -> list[Path]:
    """Segments of all workers."""
    return list(folder.glob("spool/*/*.seg"))


class Kept:
    """A connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def predict(self) -> str:
        """One prediction's id."""
        body = json.dumps({"instances": [flight()]}).encode()
        self._writer.write(
            b"POST /predict HTTP/1.1\r\nHost: serving\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {ADMIN_KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200 "), head
        (length,) = (line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        answer = json.loads(await self._reader.readexactly(int(length.split(b":")[1])))
        found: str = answer["predictions"][0]["prediction_id"]
        return found


@contextlib.asynccontextmanager
async def kept(port: int) -> AsyncIterator[list[Kept]]:
    """`CONNECTIONS` of them."""
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    try:
        yield [Kept(*stream) for stream in streams]
    finally:
        for _, writer in streams:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest_asyncio.fixture
async def service(registry: Registry, tmp_path: Path) -> AsyncIterator[Service]:
    """Not started yet; ended, with all its workers, after the test."""
    registry.pipeline()
    registry.version(tiny_model(0.25))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(headers=bearer(ADMIN_KEY), timeout=30, limits=limits) as client:
        found = Service(tmp_path, client)
        try:
            yield found
        finally:
            if found.process is not None:
                left = found.workers() if found.process.poll() is None else []
                found.process.kill()
                found.process.wait(60)
                for worker in left:
                    worker.wait(60)


async def test_load_is_even_and_nothing_counted_or_logged_is_lost_when_a_worker_is_killed(
    service: Service, sessions: Sessions
) -> None:
    process = service.start()
    await service.live()
    answered: list[str] = []

    async def counted() -> float:
        return await service.metric("relevo_serving_predictions_total")

    async def evenly_open() -> bool:
        found = await service.connections()
        return sum(found) > CONNECTIONS and max(found) - min(found) <= 1

    async def all_closed() -> bool:
        return sum(await service.connections()) < CONNECTIONS // WORKERS

    async with kept(service.port) as connections:
        answered += await asyncio.gather(*(connection.predict() for connection in connections))
        await until(evenly_open, "the connections are shared out evenly, one more asks for metrics")
        assert await counted() == len(answered)

        victim, other = service.workers()
        for _ in range(3):
            answered += await asyncio.gather(*(connection.predict() for connection in connections))
        # Nobody asks for metrics before the end: within moments it has written its count where that outlives it.
        await until(lambda: left_behind(victim) + left_behind(other) == len(answered), "the count is written")
        victim.kill()
        await until(
            lambda: len(service.workers()) == WORKERS and victim not in service.workers(), "it is started again"
        )
        await service.all_ready()
        assert other.is_running()
        assert await counted() == len(answered), "what the killed one had counted is kept"
        assert await service.metric("relevo_serving_worker_restarts_total") == 1
        assert await service.metric("http_requests_total", handler="/predict", status="200") == len(answered)

    await until(all_closed, "the connections are gone")
    async with kept(service.port) as connections:
        for _ in range(3):
            answered += await asyncio.gather(*(connection.predict() for connection in connections))
        await until(evenly_open, "the new one has its share")
        assert await counted() == len(answered)

    process.terminate()
    assert await asyncio.to_thread(process.wait, 60) == -signal.SIGTERM
    assert Counter(logged(sessions)) == Counter(answered), "each once"


@pytest.mark.slow
async def test_one_that_hangs_is_killed_and_started_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_WORKER_SILENT_S", "3")
    service.start()
    await service.all_ready()
    victim, _ = service.workers()
    victim.suspend()
    service.client.timeout = httpx.Timeout(5)

    async def replaced() -> bool:
        try:
            return await service.metric("relevo_serving_worker_restarts_total") == 1
        except httpx.TransportError:  # this very connection is the hanging one's
            return False

    await until(replaced, "it is killed and started again")
    await service.all_ready()
    assert not victim.is_running()
    assert "a worker hangs" in service.log.read_text()


async def test_sigterm_fails_no_request_and_leaves_no_process_and_nothing_unshipped(
    service: Service, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SERVING_DRAIN_S", "1")
    process = service.start()
    await service.live()
    workers, answered, stop = service.workers(), [], asyncio.Event()
    asking = [asyncio.create_task(load(service.client, service.url, answered, seed, stop)) for seed in range(4)]
    await until(lambda: len(answered) > 300, "load")
    process.terminate()

    async def red() -> bool:
        return (await service.client.get(f"{service.url}/readyz")).status_code == 503

    await until(red, "readiness is red while it still answers")
    during = len(answered)
    await until(lambda: len(answered) > during, "predictions are answered while it drains")
    stop.set()
    await asyncio.gather(*asking)
    assert await asyncio.to_thread(process.wait, 60) == -signal.SIGTERM
    assert not [worker for worker in workers if worker.is_running()]
    assert sorted(logged(sessions)) == sorted(answered)
    assert not await asyncio.to_thread(unshipped, tmp_path)


async def test_no_worker_outlives_its_supervisor_and_a_second_signal_ends_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_DRAIN_S", "1000")
    process = service.start()
    await service.all_ready()
    workers = service.workers()
    process.send_signal(signal.SIGINT)
    await until(lambda: "stopping the workers" in service.log.read_text(), "the first signal is heard")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) == -signal.SIGINT
    assert not [worker for worker in workers if worker.is_running()]

    monkeypatch.setenv("SERVING_DRAIN_S", "0")
    process = service.start()
    await service.all_ready()
    workers = service.workers()
    process.kill()
    process.wait(60)
    await until(lambda: not any(worker.is_running() for worker in workers), "the workers end")


async def test_a_start_that_fails_everywhere_ends_with_the_cause(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as changed:
        changed.setenv("SERVING_SPOOL_DIR", str(tmp_path / "file" / "spool"))
        process = service.start()
        assert await asyncio.to_thread(process.wait, 60) == STARTUP_FAILURE
    last = service.log.read_text().splitlines()[-1]
    assert "no worker could start" in last
    assert "NotADirectoryError" in last

    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = service.start("--port", str(taken.getsockname()[1]))
        assert await asyncio.to_thread(process.wait, 60) == STARTUP_FAILURE
    assert "Address already in use" in service.log.read_text()
