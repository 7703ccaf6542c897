"""Nudges through a real Valkey to a real solo worker, and what happens when Valkey is emptied, restarted or frozen."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from celery import Celery

from cli.stack import ports
from shared.config import CommonSettings
from shared.contracts.tasks import QUEUE_OF, TaskName
from shared.errors import Unavailable
from shared.messaging import KEY_PREFIX, make_celery, publish
from tests.engines import Engines
from tests.support.broker import Broker
from tests.support.waiting import DEADLINE_S, until

REPOSITORY = Path(__file__).parents[3]


class EchoWorker:
    """`celery worker --pool solo` with the tasks of echo_worker.py."""

    def __init__(self, folder: Path, env: dict[str, str], port: int) -> None:
        self.echo, self.log, self.address = folder / "echo.txt", folder / "worker.log", f"http://127.0.0.1:{port}"
        self.echo.touch()
        queues = f"{QUEUE_OF[TaskName.ADVANCE_CYCLE]},{QUEUE_OF[TaskName.MONITOR]}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.integration.shared.echo_worker", "worker",
                 "-Q", queues, "--pool", "solo", "-n", f"echo-{port}@%h"],
                cwd=REPOSITORY, stdout=log, stderr=log,
                env={**os.environ, **env, "ECHO_FILE": str(self.echo), "RELEVO_METRICS_PORT": str(port)},
            )  # fmt: skip

    def got(self, row: uuid.UUID) -> bool:
        return str(row) in self.echo.read_text()

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz", timeout=DEADLINE_S).status_code == 200
        except httpx.TransportError:
            return False

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path / "valkey", next(ports.free_ports(avoid=())))
    yield running
    running.close()


@pytest.fixture
def env(broker: Broker, engines: Engines) -> dict[str, str]:
    return {
        "DATABASE_URL": engines.database_url,
        "REDIS_URL": broker.url,
        "RELEVO_PREDICTION_SECRET": "0123456789abcdef" * 2,
        "RELEVO_SERVICE_KEY": "rlv_0123456789ab_" + "s" * 43,
        "RELEVO_LOG_FORMAT": "json",
    }


@pytest.fixture
def start_worker(tmp_path: Path, env: dict[str, str]) -> Iterator[Callable[[], EchoWorker]]:
    workers: list[EchoWorker] = []
    free = ports.free_ports(avoid=())

    def start() -> EchoWorker:
        folder = tmp_path / f"worker-{len(workers)}"
        folder.mkdir()
        workers.append(EchoWorker(folder, env, next(free)))
        until(workers[-1].ready, "the worker is ready")
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def app(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    publisher = make_celery("test", CommonSettings())
    yield publisher
    publisher.close()
    publisher.pool.force_close_all()


def nudge(app: Celery, task: TaskName = TaskName.ADVANCE_CYCLE) -> uuid.UUID:
    row = uuid.uuid4()
    publish(app, task, row, f"request-{row}")
    return row


def test_a_nudge_arrives_with_its_request_id(app: Celery, start_worker: Callable[[], EchoWorker]) -> None:
    worker = start_worker()
    row, failing = nudge(app), nudge(app, TaskName.MONITOR)
    until(lambda: f"{row} request-{row}\n" in worker.echo.read_text(), "the nudge is handled")

    def about(request: str) -> list[dict[str, object]]:
        return [line for line in worker.lines() if line.get("request_id") == request]

    until(lambda: any("succeeded" in str(line["event"]) for line in about(f"request-{row}")), "success is logged")
    until(lambda: any("exception" in line for line in about(f"request-{failing}")), "the failure is logged")
    echoed = next(line for line in about(f"request-{row}") if line["event"] == "echoed")
    assert (echoed["service"], echoed["task"], echoed["row_id"]) == ("echo-worker", TaskName.ADVANCE_CYCLE, str(row))
    assert "hunter2" not in worker.log.read_text()
    assert "queue-password" not in worker.log.read_text()

    worker.process.terminate()
    assert worker.process.wait(DEADLINE_S) == 0


def test_a_worker_survives_an_emptied_and_a_restarted_queue(
    app: Celery, broker: Broker, start_worker: Callable[[], EchoWorker]
) -> None:
    worker = start_worker()
    broker.client.flushall()
    flushed = nudge(app)
    until(lambda: worker.got(flushed), "a nudge after FLUSHALL")

    for how in (signal.SIGTERM, signal.SIGKILL):
        broker.stop(how)
        with pytest.raises(Unavailable, match="kept and sent later"):
            nudge(app)
        until(lambda: not worker.ready(), "the worker tells that the queue is away")
        broker.start()
        restarted = nudge(app)
        until(lambda row=restarted: worker.got(row), f"a nudge after {how.name} and a restart")
        until(worker.ready, "ready again")


def test_a_frozen_queue_delays_but_does_not_deafen(
    app: Celery, broker: Broker, start_worker: Callable[[], EchoWorker]
) -> None:
    worker = start_worker()
    broker.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        nudge(app)
    broker.process.send_signal(signal.SIGCONT)
    row = nudge(app)
    until(lambda: worker.got(row), "a nudge after the queue thawed")


def test_a_busy_worker_leaves_nudges_to_others(
    app: Celery, broker: Broker, start_worker: Callable[[], EchoWorker]
) -> None:
    busy = start_worker()
    busy.echo.unlink()
    os.mkfifo(busy.echo)  # opening it for writing blocks until somebody reads: a task that takes long
    first = nudge(app)
    until(lambda: any("received" in str(line["event"]) for line in busy.lines()), "the first nudge is taken")
    second = nudge(app)
    queue = KEY_PREFIX + QUEUE_OF[TaskName.ADVANCE_CYCLE]
    assert broker.client.llen(queue) == 1, "it waits in Valkey, not in the busy worker"
    assert busy.ready(), "a worker in a long task is well, though a nudge waits"
    other = start_worker()
    until(lambda: other.got(second), "another worker takes the second nudge")
    assert busy.echo.read_text().startswith(str(first))
