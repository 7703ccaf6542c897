"""SIGTERM under load: serving drains, and what it answered is in the table. Its process, for other tests of faults."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import bearer, flight, registry, until
from tests.integration.serving.registry import ADMIN_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

__all__ = ["registry"]


class Process:
    """Serving, as the stack starts it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = folder / "serving.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin."""
        log = self._log.open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "services.serving", "--port", str(self.port),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ), start_new_session=True,
        )  # fmt: skip
        log.close()

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    async def ready(self, client: httpx.AsyncClient) -> None:
        """Wait until it can predict."""

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, "the process ended"
            try:
                answer = await client.get(f"{self.url}/readyz")
            except httpx.TransportError:
                return False
            return answer.status_code == 200 and answer.json()["checks"]["models"]["ok"]

        await until(answers, "the process is ready")


def logged(sessions: Sessions) -> list[str]:
    """The prediction ids in the registry."""
    ids = PredictionIds(PREDICTION_SECRET)
    with sessions.begin() as session:
        rows = session.execute(text("select request_id, row_index from predictions"))
        return [ids.make("delays", request_id, row_index) for request_id, row_index in rows]


@pytest.fixture
def process(registry: Registry, tmp_path: Path) -> "Process":
    """Not started yet."""
    registry.pipeline()
    registry.version(tiny_model(0.25))
    return Process(tmp_path)


def segments(folder: Path) -> list[Path]:
    """What waits in the spool."""
    return list(folder.glob("spool/replica-0/*.seg"))


async def load(client: httpx.AsyncClient, url: str, answered: list[str], seed: int, stop: asyncio.Event) -> None:
    """Predict in a loop until the server is gone or `stop` is set; note every answered id."""
    chance = random.Random(seed)
    number = 0
    while not stop.is_set():
        number += 1
        rows = [flight(seed * 10**6 + number * 100 + row) for row in range(chance.randint(1, 60))]
        try:
            answer = await client.post(f"{url}/predict", json={"instances": rows})
        except httpx.TransportError:
            return
        assert answer.status_code == 200, answer.text
        answered += [row["prediction_id"] for row in answer.json()["predictions"]]


@pytest.mark.parametrize("to", ["serving", "all its processes"])
async def test_sigterm_under_load_fails_no_request_and_leaves_nothing_in_the_spool(
    process: Process, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setenv("SERVING_DRAIN_S", "1")
    answered: list[str] = []
    async with httpx.AsyncClient(headers=bearer(ADMIN_KEY), timeout=30) as client:
        process.start()
        try:
            await process.ready(client)
            await client.post(f"{process.url}/admin/models/delays/promote", json={"version": 1})
            stop = asyncio.Event()
            asking = [asyncio.create_task(load(client, process.url, answered, worker, stop)) for worker in range(3)]
            await until(lambda: len(answered) > 300, "load")
            assert process.process is not None
            (os.kill if to == "serving" else os.killpg)(process.process.pid, signal.SIGTERM)

            async def red() -> bool:
                return (await client.get(f"{process.url}/readyz")).status_code == 503

            await until(red, "readiness is red while it still answers")
            during = len(answered)
            await until(lambda: len(answered) > during, "predictions are answered while it drains")
            stop.set()
            await asyncio.gather(*asking)
            assert await asyncio.to_thread(process.process.wait, 60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
    assert sorted(logged(sessions)) == sorted(answered)
    assert segments(tmp_path) == []
