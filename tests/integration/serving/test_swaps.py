"""Many swaps and everything that can be wrong with a new version, under load: no request fails, each is of the version it says."""

import asyncio
import contextlib
import gc
import math
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from shared.golden import Golden
from shared.registry.tables import ModelVersion
from tests.integration.serving.conftest import Replica, flight, until
from tests.integration.serving.registry import Registry
from tests.unit.serving.test_rehearsal import not_finite_at
from tests.unit.serving.tiny_model import SIGNATURE, tiny_golden, tiny_model

GOOD = 3


@pytest.fixture
def good_versions(registry: Registry) -> Registry:
    """Version n of `delays` answers n/8."""
    registry.pipeline()
    for number in range(1, GOOD + 1):
        registry.version(tiny_model(number / 8), golden=tiny_golden(number / 8))
    return registry


@dataclass
class Asking:
    """Requests that were answered while something else went on."""

    versions: dict[str, int] = field(default_factory=dict)
    """By prediction id."""
    wrong: list[Any] = field(default_factory=list)


@contextlib.asynccontextmanager
async def asking(replica: Replica, workers: int = 3) -> AsyncIterator[Asking]:
    """Ask without end while the block lasts, from several clients."""
    found, done = Asking(), asyncio.Event()

    async def ask(worker: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            rows = [flight(worker * 10_000_000 + number * 100 + row, carrier="UA") for row in range(1 + number % 3)]
            answer = await replica.predict(*rows)
            body = answer.json()
            if answer.status_code != 200:
                found.wrong.append(body)
                continue
            version = body["model_version"]
            for row in body["predictions"]:
                found.versions[row["prediction_id"]] = version
                if row["score"] != version / 8:
                    found.wrong.append((version, row))
            await asyncio.sleep(0.01)  # so that swaps are most of the work

    tasks = [asyncio.create_task(ask(worker)) for worker in range(workers)]
    try:
        yield found
    finally:
        done.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("swaps", [30, pytest.param(250, marks=pytest.mark.slow)])
async def test_swaps_fail_no_request_and_give_no_score_of_another_version(
    good_versions: Registry, replica: Replica, swaps: int
) -> None:
    assert (await replica.promote(1)).status_code == 200
    async with asking(replica) as asked:
        for swap in range(swaps):
            answer = await replica.promote(1 + (swap + 1) % GOOD)
            assert answer.status_code == 200, answer.text
            assert answer.json()["applied"]
    assert asked.wrong == []
    assert set(asked.versions.values()) == {1, 2, 3}
    rows = await replica.shipped(len(asked.versions))
    assert len(rows) == len(asked.versions)
    assert all(row.score == row.version_number / 8 for row in rows)
    named = {prediction[:32]: version for prediction, version in asked.versions.items()}
    assert {row.request_id.hex: row.version_number for row in rows} == named
    held = {slot.version for slot in replica.serving.slots.report("delays")}
    assert len(held) == 2, "the live version and the one before"


async def test_an_unloaded_model_is_freed_without_looking_for_garbage(
    good_versions: Registry, replica: Replica
) -> None:
    await replica.promote(1)
    assert (await replica.predict()).status_code == 200
    lease = replica.serving.slots.lease_live("delays")
    assert lease is not None
    with lease:
        model = weakref.ref(lease.loaded.model)
    del lease
    gc.collect()
    gc.disable()
    try:
        await replica.promote(2)
        await replica.promote(3)
        await until(lambda: model() is None, "the first version's model is freed")
    finally:
        gc.enable()


def file_of(registry: Registry, digest: str) -> Path:
    root = Path(str(registry.store.fetch(digest, Path("/nowhere"))))
    assert root.is_file()
    return root


def digest_of(registry: Registry, number: int, which: str) -> str:
    with registry.sessions.begin() as session:
        version = session.exec(select(ModelVersion).where(ModelVersion.number == number)).one()
        return version.digest if which == "digest" else str(version.signature[which])


@pytest.fixture
def damaged(good_versions: Registry) -> Iterator[Any]:
    """Changes a byte in the middle of an artifact; undone at the end."""
    undo: list[tuple[Path, bytes]] = []

    def damage(digest: str) -> None:
        path = file_of(good_versions, digest)
        data = path.read_bytes()
        undo.append((path, data))
        path.chmod(0o600)
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :])

    yield damage
    for path, data in undo:
        path.write_bytes(data)


async def test_what_is_wrong_with_a_version_is_refused_while_the_old_one_answers(
    good_versions: Registry, replica: Replica, damaged: Any
) -> None:
    await replica.promote(1)
    flipped = good_versions.version(tiny_model(0.7))
    flipped_golden = good_versions.version(tiny_model(0.71), golden=tiny_golden(0.71))
    refused = {
        "a flipped byte": (flipped, "sha256"),
        "golden vectors with a flipped byte": (flipped_golden, "sha256"),
        "another signature": (
            good_versions.version(
                tiny_model(0.6),
                signature={"inputs": [{"name": "x", "kind": "number"}], "output": "score", "task": "binary"},
            ),
            "signature",
        ),
        "golden vectors of another model": (
            good_versions.version(tiny_model(0.5), golden=tiny_golden(0.51)),
            "row 0 of its golden vectors scores 0.5, where training gave 0.51: off by 0.01, at most 0.0001 may be",
        ),
        "golden vectors of another pipeline": (
            good_versions.version(tiny_model(0.5), golden=Golden([{"departs": 0, "gate": 7}], [0.5])),
            "do not fit its spec",
        ),
        "golden vectors that are gone": (
            good_versions.version(
                tiny_model(0.5),
                signature={**SIGNATURE, "golden": "0" * 64},
            ),
            "no artifact",
        ),
    }
    damaged(digest_of(good_versions, flipped, "digest"))
    damaged(digest_of(good_versions, flipped_golden, "golden"))
    async with asking(replica) as asked:
        for what, (version, says) in refused.items():
            answer = await replica.promote(version)
            assert answer.status_code == 409, (what, answer.text)
            assert answer.json()["type"] == "urn:relevo:problem:not-loadable", what
            assert says in answer.json()["detail"], what
    assert asked.wrong == []
    assert set(asked.versions.values()) == {1}
    view = (await replica.client.get("/admin/models/delays")).json()
    assert (view["live_version"], view["generation"], view["applied_version"]) == (1, 1, 1)


async def test_a_version_that_cannot_score_what_was_answered_lately_is_refused(
    good_versions: Registry, replica: Replica
) -> None:
    await replica.promote(1)
    version = good_versions.version(not_finite_at(512))
    assert (await replica.predict(flight(1, distance=512))).status_code == 200
    answer = await replica.promote(version)
    assert answer.status_code == 409
    assert "not finite for a request that was answered lately" in answer.json()["detail"]
    assert (await replica.predict()).json()["model_version"] == 1


async def test_what_the_live_version_answered_is_kept_one_in_a_while(good_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    lease = replica.serving.slots.lease_live("delays")
    assert lease is not None
    with lease:
        sample = lease.loaded.sample

    async def kept(path: str, due: bool = True, **body: Any) -> int:
        sample.due_s = 0.0 if due else math.inf
        answer = await replica.client.post(path, json=body or {"instances": [flight()]})
        assert answer.status_code == 200, answer.text
        assert sample.due_s > 0
        return len(sample.newest())

    assert await kept("/predict", instances=[flight()], model="delays") == 1
    assert await kept("/v1/models/delays/predict") == 2
    assert await kept("/predict", due=False) == 2
    assert await kept("/predict", instances=[flight()], version=2) == 2, (
        "one that names its version says nothing of the live one"
    )
    departs = {"name": "departs", "datatype": "INT64", "shape": [1], "data": [1_370_188_800_000_000]}
    assert await kept("/v2/models/delays/infer", inputs=[departs]) == 2, "nor is it of the form that is replayed"
    assert (await replica.promote(2)).status_code == 200
