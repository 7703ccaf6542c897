"""More than can be scored: who is refused hears it at once, nothing of it is logged, the urgent are served, the rest answers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
import uvicorn

from services.serving.server import make_config
from shared.keys import ensure_key
from shared.registry.session import Sessions
from tests.integration.serving.conftest import Replica, bearer, flight, running, until
from tests.integration.serving.registry import PREDICT_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

MANY = 16
OVERLOADED = "urn:relevo:problem:overloaded"
LATE = "urn:relevo:problem:deadline-exceeded"
TOO_FAST = "urn:relevo:problem:key-too-fast"


class Gate:
    """Holds up the scoring of the live version, and notes in which order it is asked."""

    def __init__(self, replica: Replica) -> None:
        self._opens = threading.Event()
        self.entered = threading.Event()
        lease = replica.serving.slots.lease_live("delays")
        assert lease is not None
        with lease:
            self._model = lease.loaded.model
        self._score: Callable[..., Any] = self._model.score

    def shut(self) -> None:
        """From now on; a run is expected to take ten milliseconds."""
        self._model.cost.fixed_s = 0.01

        def held(*arguments: Any) -> Any:
            self.entered.set()
            assert self._opens.wait(60)
            return self._score(*arguments)

        self._model.score = held  # type: ignore[method-assign]

    def open(self) -> None:
        """Let all go on."""
        self._opens.set()
        self._model.score = self._score  # type: ignore[method-assign]


class Busy:
    """A replica behind its real server, whose model is held up with a request inside; predictions wait."""

    def __init__(self, replica: Replica, server: uvicorn.Server, client: httpx.AsyncClient, gate: Gate) -> None:
        self.replica, self.server, self.client, self.gate = replica, server, client, gate

    def ask(self, *keys: int, **headers: str) -> "asyncio.Task[httpx.Response]":
        """Begin to predict rows."""
        body = orjson.dumps({"instances": [flight(key) for key in keys]})
        sent = {
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return asyncio.create_task(self.client.post("/predict", content=body, headers=sent))

    async def refused(self, kind: str, **headers: str) -> httpx.Response:
        """One that is turned away at once."""
        answer = await asyncio.wait_for(self.ask(999, **headers), 30)
        assert (answer.status_code, answer.json()["type"]) == (503, kind), answer.text
        return answer

    async def full(self) -> list["asyncio.Task[httpx.Response]"]:
        """Ask for more than may wait; those that do."""
        asked = [self.ask(number) for number in range(MANY)]
        backlog = self.replica.serving.predictor.lanes._in_threads
        await until(lambda: backlog._waiting + sum(task.done() for task in asked) == MANY, "all are let in or refused")
        refused = [await task for task in asked if task.done()]
        assert refused
        assert {(answer.status_code, answer.json()["type"]) for answer in refused} == {(503, OVERLOADED)}
        return [task for task in asked if not task.done()]


@pytest_asyncio.fixture
async def busy(registry: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Busy]:
    """Everything goes through one thread, a request a batch, and waits for few."""
    for name, value in {"SCORE_THREADS": "1", "INLINE_RUN_MS": "0", "BATCH_MS": "0.0001", "MOST_WAIT_MS": "50"}.items():
        monkeypatch.setenv(f"SERVING_{name}", value)
    registry.pipeline()
    registry.version(tiny_model(0.25))
    async with running(sessions) as replica:
        assert (await replica.promote(1)).status_code == 200
        server = uvicorn.Server(make_config(replica.app, host="127.0.0.1", port=0, lifespan="off", log_config=None))
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started or task.done(), "the server listens")
        host, port = server.servers[0].sockets[0].getsockname()
        limits = httpx.Limits(max_connections=2 * MANY)
        async with httpx.AsyncClient(
            base_url=f"http://{host}:{port}", headers=replica.client.headers, limits=limits, timeout=60
        ) as client:
            await client.post("/predict", json={"instances": [flight()]})
            gate = Gate(replica)
            gate.shut()
            found = Busy(replica, server, client, gate)
            first = found.ask(1)
            await asyncio.to_thread(gate.entered.wait, 30)
            try:
                yield found
            finally:
                gate.open()
                await first
        server.should_exit = True
        await task


async def test_what_cannot_be_scored_in_time_is_refused_at_once_and_the_rest_answers(busy: Busy) -> None:
    waiting = await busy.full()
    answer = await busy.refused(OVERLOADED, x_request_id="mine")
    assert 1 <= int(answer.headers["retry-after"]) <= 4
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == ("mine", "mine")
    # The general way and the other protocol refuse alike; a key that is no good is told so first.
    slow = await busy.replica.predict(flight(5))
    assert {**slow.json(), "request_id": ""} == {**answer.json(), "request_id": ""}
    tensors = {"inputs": [{"name": "departs", "datatype": "INT64", "shape": [1], "data": [1]}]}
    infer = await busy.client.post("/v2/models/delays/infer", json=tensors)
    assert (infer.status_code, infer.json()) == (503, {"error": answer.json()["detail"]})
    assert "retry-after" in infer.headers
    large = await busy.client.post("/predict", content=b" " * 300_000, headers={"content-type": "application/json"})
    assert large.json()["type"] == OVERLOADED
    assert (await busy.client.post("/predict", json={}, headers=bearer("rlv_nobody"))).status_code == 401

    for path in ("/healthz", "/readyz", "/metrics", "/admin/models/delays"):
        assert (await asyncio.wait_for(busy.client.get(path), 30)).status_code == 200, path
    assert (await busy.replica.promote(1)).status_code == 200
    assert not busy.replica.serving.predictor.lanes.has_room()

    busy.gate.open()
    answers = [await task for task in waiting]
    assert {answer.status_code for answer in answers} == {200}
    assert (await busy.ask(1000)).status_code == 200, "there is room again"
    rows = await busy.replica.shipped(len(answers) + 3)
    assert "AA-999" not in {row.key for row in rows}
    assert busy.replica.serving.predictor.lanes.has_room()


async def test_one_whose_deadline_passes_while_it_waits_is_neither_scored_nor_logged(busy: Busy) -> None:
    answer = await asyncio.wait_for(busy.ask(7, x_relevo_timeout_ms="60"), 30)
    assert (answer.status_code, answer.json()["type"]) == (503, LATE)
    assert "retry-after" in answer.headers
    busy.gate.open()
    assert (await busy.ask(8)).status_code == 200
    assert "AA-7" not in {row.key for row in await busy.replica.shipped(3)}


async def test_the_urgent_are_let_in_and_go_first_when_the_others_are_refused(busy: Busy) -> None:
    waiting = await busy.full()
    await busy.refused(OVERLOADED, x_relevo_priority="low")
    urgent = busy.ask(2000, x_relevo_priority="high")
    done, _ = await asyncio.wait({urgent}, timeout=0.2)
    assert not done
    busy.gate.open()
    assert (await urgent).status_code == 200
    assert {(await task).status_code for task in waiting} == {200}
    rows = await busy.replica.shipped(len(waiting) + 3)
    # In the order in which they were logged: the first two were asked before all others.
    assert [row.key for row in sorted(rows, key=lambda row: row.seq)][2] == "AA-2000"


async def test_a_server_that_is_asked_to_end_takes_no_more_and_answers_what_it_has_taken(busy: Busy) -> None:
    waiting = await busy.full()
    (listening,) = busy.server.servers
    busy.server.should_exit = True  # what SIGTERM does
    await until(lambda: not listening.is_serving(), "it listens no more")
    async with httpx.AsyncClient(base_url=busy.client.base_url) as late:
        with pytest.raises(httpx.ConnectError):
            await late.get("/healthz")
    busy.gate.open()
    answers = [await task for task in waiting]
    assert {(answer.status_code, answer.headers["connection"]) for answer in answers} == {(200, "close")}
    logged = {(str(row.request_id).replace("-", ""), row.key) for row in await busy.replica.shipped(len(answers) + 2)}
    for answer in answers:
        (row,) = answer.json()["predictions"]
        assert (row["prediction_id"][:32], row["key"]) in logged


async def test_headers_that_make_no_sense_are_named(busy: Busy) -> None:
    for header, value in (("X-Relevo-Timeout-Ms", "soon"), ("X-Relevo-Timeout-Ms", "0"), ("X-Relevo-Priority", "top")):
        answer = await busy.client.post("/predict", json={"instances": [flight()]}, headers={header: value})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["loc"] == ["header", header]
        infer = await busy.client.post("/v2/models/delays/infer", json={"inputs": []}, headers={header: value})
        assert infer.status_code == 400
        assert header in infer.json()["error"]


async def test_high_priority_needs_its_scope(busy: Busy, sessions: Sessions) -> None:
    headers = {**bearer(PREDICT_KEY), "X-Relevo-Priority": "high"}
    answer = await busy.client.post("/predict", json={"instances": [flight()]}, headers=headers)
    assert (answer.status_code, "predict:priority" in answer.json()["detail"]) == (403, True)
    with sessions.begin() as session:
        ensure_key(session, PREDICT_KEY, "shop", ["predict", "predict:priority"])

    async def let_in() -> bool:
        task = asyncio.create_task(busy.client.post("/predict", json={"instances": [flight()]}, headers=headers))
        done, _ = await asyncio.wait({task}, timeout=0.5)
        return not done

    await until(let_in, "the key's new scope is known")


async def test_a_key_that_asks_too_often_is_refused_and_others_are_not(
    registry: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_KEY_RATE", "0.001")
    monkeypatch.setenv("SERVING_KEY_BURST", "3")
    registry.pipeline()
    registry.version(tiny_model(0.25))
    async with running(sessions) as replica:
        assert (await replica.promote(1)).status_code == 200
        answers = [await replica.predict(flight(number)) for number in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].json()["type"] == TOO_FAST
        assert int(answers[-1].headers["retry-after"]) > 100
        other = await replica.client.post("/predict", json={"instances": [flight()]}, headers=bearer(PREDICT_KEY))
        assert other.status_code == 200
        assert (await replica.client.get("/admin/models/delays")).status_code == 200
