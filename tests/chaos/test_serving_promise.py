"""PostgreSQL stopped and serving killed with -9 three times: every answered prediction is in the table exactly once."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from cli.stack import ports
from shared.artifacts import open_store
from shared.config import psycopg_url
from shared.prediction_ids import PredictionIds
from shared.registry.migrate import migrate
from shared.registry.session import make_sessions, open_engine
from tests.chaos.test_serving_kill import Process, segments
from tests.conftest import PREDICTION_SECRET
from tests.engines import running_postgres
from tests.integration.serving.conftest import bearer, flight
from tests.integration.serving.registry import ADMIN_KEY, Registry
from tests.support.waiting import until
from tests.unit.serving.tiny_model import tiny_model

CLIENTS = 6
DRAINED_WITHIN_S = 600.0


class Postgres:
    """A server of the test's own, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = next(ports.free_ports(avoid=()))
        self._running = contextlib.ExitStack()
        self._thread = ThreadPoolExecutor(1)
        """Without an event loop, and alive as long as the server: its leash ends it with the thread that started it."""

    def start(self) -> str:
        """Run it; gives its address."""
        return self._thread.submit(self._running.enter_context, running_postgres(self._folder, self._port)).result()

    def stop(self) -> None:
        """End all sessions and the server."""
        self._thread.submit(self._running.close).result()

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        self._thread.shutdown()


class Load:
    """Clients that predict as many rows as they are let, and come again when the server is gone. Each row has a key of its own."""

    def __init__(self, process: Process, client: httpx.AsyncClient, most_rows: int) -> None:
        self._process = process
        self._client = client
        self._most_rows = most_rows
        self._chance = random.Random(7)
        self._number = 0
        self._let = 0
        self.let_in_all = 0
        self._changed = asyncio.Condition()
        self.up = asyncio.Event()
        """Cleared while the server is known to be down."""
        self.answered: dict[str, str] = {}
        """Keys by prediction id, as the answers say."""
        self.cut_off: set[str] = set()
        """Keys of the requests whose answer never came."""
        self.doubled = 0

    async def let(self, rows: int) -> None:
        """Let the clients predict so many rows more."""
        self.let_in_all += rows
        await self._again(rows)

    async def _again(self, rows: int) -> None:
        async with self._changed:
            self._let += rows
            self._changed.notify_all()

    async def answers(self, count: int) -> None:
        """Wait until so many rows are answered."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.answered) >= count)

    async def client(self) -> None:
        """Predict without end."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._let > 0)
                size = min(self._let, self._chance.randint(1, self._most_rows))
                self._let -= size
            rows = [flight(self._number + row) for row in range(size)]
            self._number += size
            await self.up.wait()
            try:
                answer = await self._client.post(f"{self._process.url}/predict", json={"instances": rows})
            except httpx.TransportError:
                self.cut_off |= {row["flight"] for row in rows}
                await self._again(size)
                continue
            assert answer.status_code == 200, answer.text
            async with self._changed:
                for prediction in answer.json()["predictions"]:
                    self.doubled += prediction["prediction_id"] in self.answered
                    self.answered[prediction["prediction_id"]] = prediction["key"]
                self._changed.notify_all()

    async def kill_the_server(self, after: int) -> None:
        """Let rows through, kill -9 when half of them are answered, and start again."""
        wanted = len(self.answered) + after // 2
        await self.let(after)
        await self.answers(wanted)
        self.up.clear()
        self._process.kill()
        self._process.start()
        await self._process.ready(self._client)
        self.up.set()


@pytest.fixture
def postgres(relevo_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """Running, migrated, with a pipeline and a version; the environment points at it."""
    made = Postgres(tmp_path / "own")
    try:
        url = made.start()
        monkeypatch.setenv("DATABASE_URL", url)
        engine = open_engine(psycopg_url(url))
        migrate(engine)
        registry = Registry(make_sessions(engine), open_store(relevo_env["RELEVO_ARTIFACTS_URL"]))
        registry.pipeline()
        registry.version(tiny_model(0.25))
        engine.dispose()
        yield made
    finally:
        made.close()


def table(url: str) -> list[tuple[str, str]]:
    """Prediction id and key of every row of the view."""
    ids, engine = PredictionIds(PREDICTION_SECRET), open_engine(psycopg_url(url))
    with make_sessions(engine).begin() as session:
        rows = session.execute(text("select request_id, row_index, key from predictions")).all()
    engine.dispose()
    return [(ids.make("delays", request_id, row_index), key) for request_id, row_index, key in rows]


@pytest.mark.parametrize(
    ("predictions", "outage_s"),
    [(2000, 3.0), pytest.param(50_000, 60.0, marks=pytest.mark.slow)],
    ids=["short", "long"],
)
async def test_every_answered_prediction_is_in_the_table_exactly_once(
    postgres: Postgres, tmp_path: Path, predictions: int, outage_s: float
) -> None:
    process, part = Process(tmp_path), predictions // 20
    async with httpx.AsyncClient(headers=bearer(ADMIN_KEY), timeout=60) as client:
        load = Load(process, client, most_rows=max(4, predictions // 1000))
        process.start()
        try:
            await process.ready(client)
            promoted = await client.post(f"{process.url}/admin/models/delays/promote", json={"version": 1})
            assert promoted.status_code == 200, promoted.text
            load.up.set()
            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(load.client()) for _ in range(CLIENTS)]
                await load.let(4 * part)
                await load.answers(2 * part)
                await asyncio.to_thread(postgres.stop)
                stopped_s = time.monotonic()
                await load.kill_the_server(after=2 * part)
                while (left_s := stopped_s + outage_s - time.monotonic()) > 0:
                    await load.let(part // 10)  # over the whole outage
                    await asyncio.sleep(min(left_s, outage_s / 50))
                await load.kill_the_server(after=2 * part)
                outage_s = time.monotonic() - stopped_s
                unshipped = sum(path.stat().st_size for path in segments(tmp_path))
                url = await asyncio.to_thread(postgres.start)
                await load.kill_the_server(after=2 * part)
                await load.let(predictions - load.let_in_all)
                await load.answers(predictions)
                for task in clients:
                    task.cancel()

            def waiting() -> float:
                metrics = httpx.get(f"{process.url}/metrics").text
                return float(metrics.partition("\nrelevo_serving_spool_bytes ")[2].partition("\n")[0])

            await asyncio.to_thread(until, lambda: waiting() == 0, "all is shipped", deadline_s=DRAINED_WITHIN_S)
        finally:
            process.kill()
    rows = table(url)
    counts, keys = Counter(rows), Counter(key for _, key in rows)
    extra = [key for id_, key in rows if id_ not in load.answered]
    print(  # noqa: T201 - the counts, for those who run the long one
        json.dumps(
            {
                "answered": len(load.answered), "rows": len(rows), "cut_off": len(load.cut_off), "cut_off_but_logged": len(extra),
                "outage_s": round(outage_s, 1), "unshipped_bytes": unshipped,
                "lost": len(load.answered.items() - counts.keys()), "doubled": len(rows) - len(counts),
            }
        )
    )  # fmt: skip
    assert len(load.answered) == predictions
    assert load.doubled == 0
    assert load.answered.items() <= counts.keys(), "every answered prediction is there"
    assert set(counts.values()) == {1}, "once"
    assert set(keys.values()) == {1}
    assert set(extra) <= load.cut_off, "what else is there was logged, and its answer cut off"
    assert unshipped > 0
