"""Over the whole of serving: every caller gets the scores of its own rows, whoever hangs up and whatever is wrong beside it.

Real sockets to a real process. Each row's score tells which row it is; rows come one by one and in hundreds, so that batches run on
the loop and in threads; some requests hold a row that is wrong, some callers leave before, while and after they are answered.
"""

import asyncio
import json
import random
import signal
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from sqlalchemy import text

from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions
from tests.chaos.test_serving_kill import Process
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import DEADLINE_S, registry, until
from tests.integration.serving.registry import ADMIN_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

__all__ = ["registry"]

CALLERS, REQUESTS = 24, 30
SIZES = (1, 1, 1, 1, 2, 3, 8, 40, 150, 400)
MODEL = tiny_model(0.0, weight=1.0)
"""score = distance in thousands: a row's distance, and with it its score, is its own alone."""
PRECISION = 128
"""Distances are multiples of one part in so many: there are 128,000 of them."""


@dataclass
class Sent:
    """What all callers sent and heard."""

    distances: dict[str, float] = field(default_factory=dict)
    """Of each row, by key."""
    good: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Requests that can be answered, by their keys; how the caller left, or that it stayed."""
    answers: dict[uuid.UUID, list[dict[str, Any]]] = field(default_factory=dict)
    """Predictions by request id."""
    ways: Counter[str] = field(default_factory=Counter)


class Caller:
    """One connection at a time, and rows of its own."""

    def __init__(self, number: int, seed: int, port: int, sent: Sent) -> None:
        self._number, self._draw, self._port, self._sent = number, random.Random(f"{seed}/{number}"), port, sent
        self._ids = PredictionIds(PREDICTION_SECRET)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked = 0

    async def run(self) -> None:
        for _ in range(REQUESTS):
            way = self._draw.choices(
                (
                    "good",
                    "wrong",
                    "two at once",
                    "leaves within the body",
                    "leaves unanswered",
                    "leaves within the answer",
                ),
                (10, 3, 2, 1, 3, 2),
            )[0]
            self._sent.ways[way] += 1
            await asyncio.wait_for(self._ask(way), DEADLINE_S * 2)
        await self._leave()

    async def _ask(self, way: str) -> None:
        reader, writer = await self._connected()
        rows = self._rows()
        keys = tuple(row["flight"] for row in rows)
        if way == "wrong":
            wrong = self._draw.randrange(len(rows))
            rows[wrong]["distance"] = "far"
            writer.write(self._request(rows))
            status, body = await self._answer(reader)
            assert status == 422, body
            assert [error["loc"] for error in body["errors"]] == [["body", "instances", wrong, "distance"]]
            return
        self._sent.good[keys] = way
        request = self._request(rows)
        if way == "leaves within the body":
            del self._sent.good[keys]
            writer.write(request[: self._draw.randrange(len(request))])
            await self._leave()
        elif way == "leaves unanswered":
            writer.write(request)
            if self._draw.random() < 0.7:
                await writer.drain()
                await asyncio.sleep(self._draw.choice((0, 0.001, 0.01)))
            await self._leave()
        elif way == "leaves within the answer":
            writer.write(request)
            assert (await reader.readexactly(9)) == b"HTTP/1.1 "
            await self._leave()
        elif way == "two at once":
            others = self._rows()
            self._sent.good[tuple(row["flight"] for row in others)] = way
            writer.write(request + self._request(others))
            for each in (rows, others):
                self._check(each, *await self._answer(reader))
        else:
            writer.write(request)
            self._check(rows, *await self._answer(reader))

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for _ in range(self._draw.choice(SIZES)):
            self._asked += 1
            key = f"{self._number}-{self._asked}"
            distance = (len(self._sent.distances) + 1) / PRECISION
            self._sent.distances[key] = distance
            rows.append({"flight": key, "departs": "2013-06-02T12:00:00-04:00", "carrier": "UA", "distance": distance})
        return rows

    def _request(self, rows: list[dict[str, Any]]) -> bytes:
        body = json.dumps({"model": "delays", "instances": rows}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: serving\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, Any]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(length))

    def _check(self, rows: list[dict[str, Any]], status: int, body: Any) -> None:
        assert status == 200, body
        predictions = body["predictions"]
        assert [each["key"] for each in predictions] == [row["flight"] for row in rows]
        named = [self._ids.verify("delays", each["prediction_id"]) for each in predictions]
        assert named == [(named[0][0], place) for place in range(len(rows))]
        assert named[0][0] not in self._sent.answers, "a request id is one request's"
        self._sent.answers[named[0][0]] = predictions

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def _leave(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def alone(distances: dict[str, float]) -> dict[str, float]:
    """The score of each row by itself."""
    session = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    departs = np.array([1_370_188_800_000_000], np.int64)
    carrier = np.array(["UA"], object)

    def score(distance: float) -> float:
        feeds = {"carrier": carrier, "distance": np.array([distance], np.float32), "departs": departs}
        return float(session.run(["score"], feeds)[0][0])

    return {key: score(distance) for key, distance in distances.items()}


async def sample(client: httpx.AsyncClient, url: str, name: str) -> float:
    lines = (await client.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
async def test_no_caller_ever_gets_another_s_rows(
    registry: Registry, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("SERVING_INLINE_RUN_MS", "0.08")
    registry.pipeline()
    registry.deploy(registry.version(MODEL))
    process, sent = Process(tmp_path), Sent()
    process.start()
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            await process.ready(client)
            callers = [Caller(number, seed, process.port, sent) for number in range(CALLERS)]
            await asyncio.gather(*(caller.run() for caller in callers))
            counted = "relevo_serving_predictions_total"

            async def all_shipped() -> bool:
                return await sample(client, process.url, "relevo_serving_shipped_total") >= await sample(
                    client, process.url, counted
                )

            await until(all_shipped, "the log is shipped")
            batches = await sample(client, process.url, "relevo_serving_batch_rows_count")
            requests = await sample(client, process.url, "relevo_serving_request_rows_count")
            predictions = await sample(client, process.url, counted)
    finally:
        process.kill(signal.SIGTERM)

    assert len(sent.ways) == 6, "every way was taken"
    assert batches < requests, "some requests shared a batch"
    wanted = alone({each["key"]: sent.distances[each["key"]] for answer in sent.answers.values() for each in answer})
    assert len(set(wanted.values())) == len(wanted), "a score tells its row"
    for answer in sent.answers.values():
        assert [each["score"] for each in answer] == pytest.approx([wanted[each["key"]] for each in answer], abs=1e-9)

    with sessions.begin() as session:
        logged = session.execute(text("select request_id, keys, scores, instances from prediction_requests")).all()
    assert sum(len(row.keys) for row in logged) == predictions
    # What was answered is logged as answered; what is logged besides was asked for by who left, once, and is whole.
    left = {keys: way for keys, way in sent.good.items() if way.startswith("leaves")}
    of_request = {row.request_id: row for row in logged}
    assert of_request.keys() >= sent.answers.keys()
    for row in logged:
        assert [instance["distance"] for instance in row.instances] == [sent.distances[key] for key in row.keys]
        if (answer := sent.answers.get(row.request_id)) is not None:
            assert list(row.keys) == [each["key"] for each in answer]
            assert list(row.scores) == pytest.approx([each["score"] for each in answer], abs=1e-6)
        else:
            assert left.pop(tuple(row.keys), None), "logged once, and only what somebody asked"
            assert list(row.scores) == pytest.approx([sent.distances[key] / 1000 for key in row.keys], abs=1e-6)
    within = [keys for keys, way in left.items() if way == "leaves within the answer"]
    assert within == [], "whose answer had begun is logged"
