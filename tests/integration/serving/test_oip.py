"""The Open Inference Protocol with NVIDIA's own client, unchanged, over a socket; JSON and binary, logged as any prediction."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.http as triton
import uvicorn
from tritonclient.utils import InferenceServerException

from services.serving.errors import LogFull
from shared.instances import epoch_us
from tests.integration.serving.conftest import Replica, bearer, flight, until
from tests.integration.serving.registry import ADMIN_KEY, PREDICT_KEY, READ_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model
from tests.unit.serving.vector_model import vector_model, vector_signature, vector_spec

T = TypeVar("T")
DEPARTS = datetime(2013, 6, 2, 16, tzinfo=UTC)
HEADERS = bearer(ADMIN_KEY)


class Server:
    """The replica behind a real server, and calls to it by the client."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def ask(self, call: Callable[[triton.InferenceServerClient], T]) -> T:
        """One visit of a client, in a thread of its own."""

        def visit() -> T:
            with triton.InferenceServerClient(self.address) as client:
                return call(client)

        return await asyncio.to_thread(visit)

    async def infer(self, *inputs: triton.InferInput, model: str = "delays", **options: Any) -> triton.InferResult:
        """One inference."""
        options.setdefault("headers", dict(HEADERS))
        return await self.ask(lambda client: client.infer(model, list(inputs), **options))

    async def refused(self, *inputs: triton.InferInput, **options: Any) -> tuple[str, str]:
        """Status and sentence of an inference that fails."""
        with pytest.raises(InferenceServerException) as caught:
            await self.infer(*inputs, **options)
        return str(caught.value.status()), str(caught.value.message())


@pytest_asyncio.fixture
async def server(replica: Replica) -> AsyncIterator[Server]:
    """The replica on a free port."""
    running = uvicorn.Server(
        uvicorn.Config(replica.app, host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False)
    )
    task = asyncio.create_task(running.serve())
    try:
        await until(lambda: running.started or task.done(), "the server listens")
        host, port = running.servers[0].sockets[0].getsockname()
        yield Server(f"{host}:{port}")
    finally:
        running.should_exit = True
        await task


@pytest_asyncio.fixture
async def deployed(registry: Registry, replica: Replica) -> Replica:
    """A replica with version 1 of `delays` live, and another version."""
    registry.pipeline()
    registry.version(tiny_model(0.25, weight=0.5))
    registry.version(tiny_model(0.5))
    assert (await replica.promote(1)).json()["applied"]
    return replica


def tensor(name: str, datatype: str, values: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    found = triton.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def flights(carriers: list[str], distances: list[float], *, binary: bool = True) -> list[triton.InferInput]:
    return [
        tensor("carrier", "BYTES", np.array(carriers, object), binary=binary),
        tensor("distance", "FP32", np.array(distances, np.float32), binary=binary),
        tensor("departs", "INT64", np.full(len(carriers), epoch_us(DEPARTS)), binary=binary),
    ]


async def known(replica: Replica, version: int) -> None:
    """Wait until the replica knows of a version."""

    def there() -> bool:
        pipeline = replica.serving.follower.catalogue.pipelines.get("delays")
        return pipeline is not None and version in pipeline.versions

    await until(there, f"version {version} is known")


async def test_the_server_and_its_models_are_described(deployed: Replica, server: Server) -> None:
    def look(client: triton.InferenceServerClient) -> dict[str, Any]:
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "server": client.get_server_metadata(headers=HEADERS),
            "model": client.get_model_metadata("delays", headers=HEADERS),
            "version": client.get_model_metadata("delays", "2", headers=HEADERS),
            "model ready": client.is_model_ready("delays", headers=HEADERS),
            "version ready": client.is_model_ready("delays", "1", headers=HEADERS),
            "other ready": client.is_model_ready("delays", "2", headers=HEADERS),
            "unknown ready": client.is_model_ready("nobody", headers=HEADERS),
        }

    seen = await server.ask(look)
    assert (seen["live"], seen["ready"], seen["model ready"], seen["version ready"]) == (True, True, True, True)
    assert (seen["other ready"], seen["unknown ready"]) == (False, False)
    assert seen["server"]["extensions"] == ["binary_tensor_data", "model_repository"]
    assert seen["model"] == seen["version"] == {
        "name": "delays",
        "versions": ["1", "2"],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "carrier", "datatype": "BYTES", "shape": [-1]},
            {"name": "distance", "datatype": "FP32", "shape": [-1]},
            {"name": "departs", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "prediction_id", "datatype": "BYTES", "shape": [-1]},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
async def test_an_inference_is_answered_and_logged_as_a_prediction(
    deployed: Replica, server: Server, binary: bool
) -> None:
    inputs = flights(["AA", "é", ""], [500, 500, 0.1], binary=binary)
    inputs += [
        tensor("flight", "BYTES", np.array(["a-1", "a-2", "a-3"], object), binary=binary),
        tensor("note", "INT64", np.array([1, 2, 3]), binary=binary),
        tensor("available_at", "INT64", np.full(3, epoch_us(DEPARTS) - 1), binary=binary),
    ]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("prediction_id", "score")]
    result = await server.infer(*inputs, outputs=outputs, request_id="r-1", timeout=1000, priority=1)
    assert result.as_numpy("score").dtype == np.float32
    assert result.as_numpy("score").tolist() == pytest.approx([0.625, 0.5, 0.25005])
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-1", "delays", "1")
    rows = await deployed.shipped(3)
    assert [row.score for row in rows] == result.as_numpy("score").tolist()
    assert [row.instance for row in rows] == [
        {"carrier": "AA", "distance": 500.0, "note": 1}, {"carrier": "é", "distance": 500.0, "note": 2},
        {"distance": 0.1, "note": 3},
    ]  # fmt: skip
    assert [row.key for row in rows] == ["a-1", "a-2", "a-3"]
    assert {(row.event_time, row.version_number, row.generation, row.pinned) for row in rows} == {
        (DEPARTS, 1, 1, False)
    }
    assert {epoch_us(row.available_at) for row in rows} == {epoch_us(DEPARTS) - 1}
    ids = [text.decode() if binary else text for text in result.as_numpy("prediction_id")]
    feedback = [{"prediction_id": prediction_id, "label": 1} for prediction_id in ids]
    taken = await deployed.client.post("/feedback", json=feedback)
    assert taken.json()["accepted"] == 3, taken.text


async def test_it_gives_the_scores_of_predict(deployed: Replica, server: Server) -> None:
    answer = await deployed.predict(flight(1), flight(2, carrier="UA", distance=None))
    result = await server.infer(*flights(["AA", "UA"], [500, float("nan")]))
    assert [row["score"] for row in answer.json()["predictions"]] == result.as_numpy("score").tolist()
    first, second, *others = await deployed.shipped(4)
    assert [first.instance, second.instance] == [row.instance for row in others], "logged alike, whatever it came by"
    assert others[0].key == f"{others[0].request_id.hex}-0", "made of the request and the row"


async def test_a_named_version_is_pinned_and_needs_its_scope(deployed: Replica, server: Server) -> None:
    inputs = flights(["UA"], [0])
    result = await server.infer(*inputs, model_version="2")
    assert (result.get_response()["model_version"], result.as_numpy("score").tolist()) == ("2", [0.5])
    (row,) = await deployed.shipped(1)
    assert (row.version_number, row.pinned) == (2, True)
    status, said = await server.refused(*inputs, model_version="2", headers=bearer(PREDICT_KEY))
    assert (status, "predict:version" in said) == ("403", True), said
    assert (await server.infer(*inputs, headers=bearer(PREDICT_KEY))).as_numpy("score").size == 1
    assert (await server.refused(*inputs, model_version="9"))[0] == "404"
    assert (await server.refused(*inputs, model_version="latest"))[0] == "404"


async def test_a_vector_alone_may_be_the_whole_body(registry: Registry, replica: Replica, server: Server) -> None:
    registry.pipeline("embeddings", **{name: value for name, value in vector_spec(4).items() if name != "name"})
    registry.version(vector_model(4), "embeddings", signature=vector_signature(4))
    await replica.promote(1, "embeddings")
    rows = np.array([[0.1, 2, 3, 4], [-1, 0, 0, 0.5]], np.float32)
    result = await server.infer(tensor("embedding", "FP32", rows), model="embeddings")
    assert result.as_numpy("score").tolist() == pytest.approx([8.1, 0])
    logged = await replica.shipped(2)
    assert [row.instance["embedding"] for row in logged] == [[0.1, 2, 3, 4], [-1, 0, 0, 0.5]]
    assert all(row.event_time == row.requested_at for row in logged), "the model does not take it: it is the receipt"
    raw = await replica.client.post(
        "/v2/models/embeddings/infer",
        content=rows[:1].tobytes(),
        headers={"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"},
    )
    assert raw.status_code == 200, raw.text
    length = int(raw.headers["inference-header-content-length"])
    head = json.loads(raw.content[:length])
    assert [output["parameters"]["binary_data_size"] for output in head["outputs"]] == [4, 58]
    assert np.frombuffer(raw.content, "<f4", 1, length).tolist() == pytest.approx([8.1])
    for wrong in (b"", rows.tobytes(), rows.tobytes()[:15]):
        answer = await replica.client.post(
            "/v2/models/embeddings/infer", content=wrong, headers={"Inference-Header-Content-Length": "0"}
        )
        assert (answer.status_code, "embedding" in answer.json()["error"]) == (400, True), answer.text
    both = {"instances": [{"id": "a", "at": "2013-06-02T16:00:00Z", "embedding": [0.1, 2, 3, 4]}]}
    mixed = await asyncio.gather(
        replica.client.post("/v1/models/embeddings/predict", json=both),
        replica.client.post(
            "/v2/models/embeddings/infer",
            content=rows[:1].tobytes(),
            headers={"Inference-Header-Content-Length": "0"},
        ),
    )
    assert [answer.status_code for answer in mixed] == [200, 200], "one batch of lists and arrays"


async def test_a_large_request_is_read_in_a_thread(deployed: Replica, server: Server) -> None:
    result = await server.infer(*flights(["AA" * 20] * 9_000, [1.0] * 9_000))
    assert len(set(result.as_numpy("prediction_id").tolist())) == 9_000
    status, said = await server.refused(*flights(["AA"] * 10_001, [1.0] * 10_001))
    assert (status, "at most 10000" in said) == ("400", True), said


async def test_what_serves_is_listed_and_decided_by_the_registry(
    registry: Registry, replica: Replica, server: Server
) -> None:
    registry.pipeline()
    registry.pipeline("empty")
    registry.version(tiny_model(0.25))
    await known(replica, 1)

    def load(name: str) -> Callable[[triton.InferenceServerClient], None]:
        return lambda client: client.load_model(name, headers=HEADERS)

    with pytest.raises(InferenceServerException, match="/admin/models/delays/promote") as early:
        await server.ask(load("delays"))
    assert early.value.status() == "409"
    await replica.promote(1)
    registry.version(b"damaged")
    await known(replica, 2)
    assert (await server.refused(*flights(["AA"], [1]), model_version="2"))[0] == "409"
    await server.ask(load("delays"))
    listed = await server.ask(lambda client: client.get_model_repository_index(headers=HEADERS))
    assert [(entry["name"], entry.get("version"), entry["state"]) for entry in listed] == [
        ("delays", "1", "READY"), ("delays", "2", "UNAVAILABLE"), ("empty", None, "UNAVAILABLE"),
    ]  # fmt: skip
    only = await replica.client.post("/v2/repository/index", json={"ready": True})
    assert [entry["version"] for entry in only.json()] == ["1"]
    with pytest.raises(InferenceServerException, match=r"promote makes another version live, .*rollback") as kept:
        await server.ask(lambda client: client.unload_model("delays", headers=HEADERS))
    assert kept.value.status() == "409"
    with pytest.raises(InferenceServerException, match="no pipeline of that name"):
        await server.ask(load("nobody"))
    assert (await server.infer(*flights(["AA"], [1]))).as_numpy("score").size == 1, "it serves on"


async def test_who_may_do_what(deployed: Replica, server: Server) -> None:
    inputs = flights(["AA"], [1])
    assert (await server.refused(*inputs, headers={}))[0] == "401"
    assert (await server.refused(*inputs, headers=bearer(READ_KEY)))[0] == "403"
    for path, scope in (("index", READ_KEY), ("models/delays/load", ADMIN_KEY)):
        url = f"/v2/repository/{path}"
        assert (await deployed.client.post(url, headers=bearer(scope))).status_code == 200
        assert (await deployed.client.post(url, headers=bearer(PREDICT_KEY))).status_code == 403
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as nobody:
        assert (await nobody.get("/v2/health/live")).json() == {"live": True}
        assert (await nobody.get("/v2/health/ready")).json() == {"ready": True}
        refused = await nobody.get("/v2/models/delays")
        assert (refused.status_code, list(refused.json())) == (401, ["error"])
        assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_a_live_version_that_cannot_be_loaded_is_not_ready(
    registry: Registry, replica: Replica, server: Server
) -> None:
    registry.pipeline()
    registry.deploy(registry.version(b"damaged"))
    await until(lambda: bool(replica.serving.slots.report("delays")), "it is tried")

    def look(client: triton.InferenceServerClient) -> tuple[bool, bool, bool]:
        return client.is_server_live(), client.is_server_ready(), client.is_model_ready("delays", headers=HEADERS)

    assert await server.ask(look) == (True, False, False)
    answer = await replica.client.get("/v2/health/ready")
    assert (answer.status_code, "models" in answer.json()["error"]) == (503, True)
    answer = await replica.client.post("/v2/repository/models/delays/load")
    assert (answer.status_code, "GET /admin/models/delays" in answer.json()["error"]) == (409, True)
    status, _ = await server.refused(*flights(["AA"], [1]))
    assert status == "503"


async def test_a_full_log_refuses_an_inference_too(
    deployed: Replica, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: bytes) -> None:
        raise LogFull("Too many predictions wait.")

    monkeypatch.setattr(deployed.serving.spool, "append", full)
    status, said = await server.refused(*flights(["AA"], [1]))
    assert (status, said) == ("503", "Too many predictions wait.")


async def test_damaged_requests_are_refused_and_log_nothing(deployed: Replica) -> None:
    """Lengths, shapes, datatypes and framings that are wrong, and bytes flipped at random: never a 5xx, never a hang."""
    inputs = flights(["AA", "é"], [1, 2])
    head: dict[str, Any] = {"inputs": [given._get_tensor() for given in inputs]}
    binary = b"".join(given._get_binary_data() for given in inputs)
    draw = random.Random(7)
    answers: Counter[int] = Counter()

    async def send(content: bytes, length: str | None) -> None:
        headers = {} if length is None else {"Inference-Header-Content-Length": length}
        answer = await deployed.client.post("/v2/models/delays/infer", content=content, headers=headers)
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 200 or list(answer.json()) == ["error"]
        answers[answer.status_code] += 1

    text = json.dumps(head).encode()
    for length in (None, "0", "1", "x", "-1", "9" * 40, str(len(text) - 1), str(len(text) + 1)):
        await send(text + binary, length)
    assert set(answers) == {400}
    for index in range(len(inputs)):
        for field, values in {
            "shape": [[], [0], [1], [3], [2, 2], [2**40], [-1], [True], "2", [2.0], None],
            "datatype": ["FP64", "INT8", "BOOL", "BF16", "FP16", "", None, 7],
            "parameters": [
                {},
                {"binary_data_size": 0},
                {"binary_data_size": 2**70},
                {"binary_data_size": True},
                None,
                7,
            ],
            "name": ["", "nobody", None, 7, "\ud800", "x" * 10_000],
        }.items():
            for value in values:
                spoilt = [dict(entry) for entry in head["inputs"]]
                spoilt[index][field] = value
                document = json.dumps({"inputs": spoilt}).encode()
                await send(document + binary, str(len(document)))
    assert set(answers) == {400}
    for _ in range(300):
        body = bytearray(text + binary)
        for _ in range(draw.randint(1, 3)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        await send(bytes(body[: draw.choice([len(body), draw.randrange(len(body))])]), str(len(text)))
    assert answers[400] > 200
    assert (await deployed.predict()).status_code == 200
    assert len(await deployed.shipped(2 * answers[200] + 1)) == 2 * answers[200] + 1, "what was refused is not logged"


async def test_what_is_no_route_or_no_form_of_it_is_an_error_of_the_protocol(deployed: Replica) -> None:
    client = deployed.client
    tried = {
        404: client.get("/v2/models/delays/config"),
        405: client.delete("/v2/models/delays"),
        415: client.post("/v2/models/delays/infer", content=b"x", headers={"Content-Encoding": "gzip"}),
        413: client.post("/v2/models/delays/infer", content=b" " * (8 * 2**20 + 1)),
    }
    for status, asked in tried.items():
        answer = await asked
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert (await client.get("/v3")).json()["status"] == 404, "elsewhere it stays a problem"
