"""The same statements in any order, by id and by key, before and after the log has the predictions: the same dataset."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text
from sqlmodel import SQLModel

from services.data.build import Built, Plan, build
from services.data.config import DataSettings
from services.data.source import Cut
from services.data.split import windows
from shared.labels import RANK
from shared.registry.session import Sessions
from shared.spec import parse, spec_digest
from tests.integration.serving.conftest import Replica, flight, until
from tests.integration.serving.registry import Registry
from tests.integration.serving.test_shipping import shippers
from tests.unit.serving.tiny_model import SPEC, tiny_model

START = datetime.now(UTC) - timedelta(days=20)
AS_OF = START + timedelta(days=21)
ROWS, REQUESTS = 6, 4
ORDERS = 4


@pytest.fixture
def shipper(replica: Replica) -> Iterator[psutil.Process]:
    """The process that brings predictions into the registry: stopped, until the test lets it go on."""
    (process,) = shippers()
    process.suspend()
    yield process
    process.resume()


def example(number: int) -> dict[str, Any]:
    """A flight of one of eighteen days; what was asked about it was known then."""
    departs = START + timedelta(days=1.5 * number)
    return flight(number, departs=departs.isoformat(), distance=number, available_at=departs.isoformat())


def statements(ids: dict[str, list[str]], draw: random.Random) -> list[dict[str, Any]]:
    """About each example some: both sources, few moments, so that there are corrections, contradictions and equal times."""
    found = []
    for key, predictions in ids.items():
        for _ in range(draw.randint(1, 5)):
            about = draw.choice([{"key": key}, *({"prediction_id": each} for each in predictions)])
            told = {"time": (START + timedelta(days=19, hours=draw.randrange(4))).isoformat()}
            if draw.random() < 0.3:
                told["available_at"] = (START + timedelta(days=19, hours=5)).isoformat()
            found.append({**about, **told, "label": draw.randrange(2), "source": draw.choice(["explicit", "implicit"])})
    return found


async def send(replica: Replica, waiting: list[dict[str, Any]], draw: random.Random) -> list[str]:
    """In batches of random sizes."""
    statuses = []
    while waiting:
        size = draw.randint(1, 12)
        answer = await replica.client.post("/feedback", json=waiting[:size])
        assert answer.status_code == 200, answer.text
        statuses += [verdict["status"] for verdict in answer.json()["results"]]
        del waiting[:size]
    return statuses


def run(sessions: Sessions, *statements: str) -> None:
    with sessions.begin() as session:
        for statement in statements:
            session.execute(text(statement))


def built(sessions: Sessions, folder: Path) -> Built:
    """The dataset of all that has arrived."""
    spec = parse(SPEC)
    folder.mkdir()
    with sessions.begin() as session:
        pipeline = session.scalar(text("select id from pipelines where name = 'delays'"))
        marks = {
            name: session.scalar(text(f"select coalesce(max(seq), 0) from {table}"))
            for name, table in (("events", "events"), ("labels", "labels"), ("predictions", "prediction_requests"))
        }
    cut = Cut(pipeline, AS_OF, marks, windows(spec, AS_OF))
    return build(sessions, DataSettings(), Plan(spec, 1, spec_digest(spec), cut), folder)


def labels_of(found: Built) -> dict[str, float]:
    tables = [pq.read_table(split.path) for split in found.splits.values()]
    return {row["key"]: row["label"] for table in tables for row in table.to_pylist()}


async def test_the_dataset_does_not_depend_on_the_order_in_which_feedback_came(
    registry: Registry, replica: Replica, shipper: psutil.Process, tmp_path: Path
) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    assert (await replica.promote(1)).status_code == 200
    draw = random.Random(11)
    ids: dict[str, list[str]] = {}
    for request in range(REQUESTS):  # each flight in two requests
        numbers = [(request * ROWS // 2 + row) % (REQUESTS * ROWS // 2) for row in range(ROWS)]
        for row in (await replica.predict(*map(example, numbers))).json()["predictions"]:
            ids.setdefault(row["key"], []).append(row["prediction_id"])
    assert {len(predictions) for predictions in ids.values()} == {2}
    said = statements(ids, draw)
    contents = {(*sorted((name, value) for name, value in each.items() if name != "available_at"),) for each in said}

    async def land(order: int) -> None:
        """The log rows reach the registry: from the shipper, and then again as they were."""
        if order == 0:
            assert not replica.logged()
            shipper.resume()
            await replica.shipped(ROWS * REQUESTS)
            run(replica.sessions, "create table landed as select * from prediction_requests")
        else:
            columns = ", ".join(
                column.name for column in SQLModel.metadata.tables["prediction_requests"].c if column.name != "seq"
            )
            run(replica.sessions, f"insert into prediction_requests ({columns}) select {columns} from landed")

    found = []
    for order in range(ORDERS):
        waiting = [*said, *(draw.choice(said) for _ in range(len(said) // 3))]
        draw.shuffle(waiting)
        early, late = waiting[: len(waiting) // 2], waiting[len(waiting) // 2 :]
        statuses = await send(replica, early, draw)
        await land(order)
        if order % 2:  # a build between: what it resolved is not resolved twice
            built(replica.sessions, tmp_path / f"between{order}")
        statuses += await send(replica, late, draw)
        assert statuses.count("accepted") == len(contents)
        assert statuses.count("rejected") == 0
        found.append(built(replica.sessions, tmp_path / str(order)))
        run(
            replica.sessions,
            "delete from resolved_labels",
            "delete from resolution_watermarks",
            "delete from labels",
            "delete from prediction_requests",
        )

    digests = [
        {name: (split.entry.rows_sha256, split.entry.file) for name, split in one.splits.items()} for one in found
    ]
    assert digests == digests[:1] * ORDERS
    assert sum(split.entry.file.rows for split in found[0].splits.values()) == len(ids)
    # Where no two of the strongest and latest contradict each other, the label is theirs.
    key_of = {prediction: key for key, predictions in ids.items() for prediction in predictions}
    clear = 0
    for key, label in labels_of(found[0]).items():
        about = [each for each in said if key in (each.get("key"), key_of.get(each.get("prediction_id", "")))]
        strongest = max((RANK[each["source"]], each["time"]) for each in about)
        words = {each["label"] for each in about if (RANK[each["source"]], each["time"]) == strongest}
        if len(words) == 1:
            clear += 1
            assert label == words.pop(), key
    assert clear > len(ids) / 2


async def test_the_last_word_without_a_time_counts_in_one_batch_as_in_many(
    registry: Registry, replica: Replica
) -> None:
    registry.pipeline()
    await until(lambda: bool(replica.serving.follower.catalogue.pipelines), "the pipeline is known")
    draw = random.Random(5)
    for number in range(12):
        words = [{"key": f"k{number}", "label": draw.randrange(2)} for _ in range(draw.randint(2, 6))]
        if number % 2:
            assert (await replica.client.post("/feedback", json=words)).status_code == 200
        else:
            await send(replica, words[:], draw)
        again = await replica.client.post("/feedback", json=words)
        assert again.json()["duplicates"] == len(words), "a lost answer: the whole batch is sent again"
        with replica.sessions.begin() as session:
            query = text("select label from labels where key = :key order by label_time desc limit 1")
            assert session.scalar(query, {"key": f"k{number}"}) == words[-1]["label"]
