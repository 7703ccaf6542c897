"""What the tests of offline predictions share: datasets with files, events, the worker's task, waiting for a generation."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlmodel import Session, select

from services.serving.config import ServingSettings
from services.serving.tasks import precompute_row
from shared.artifacts import ArtifactStore
from shared.config import CommonSettings
from shared.manifest import TEST_FILE, TRAIN_FILE, DatasetFile, files_section
from shared.registry.session import Sessions
from shared.registry.states import DatasetState
from shared.registry.tables import Dataset, Event, OutboxMessage, Pipeline, Precompute
from tests.integration.serving.conftest import Replica, until
from tests.integration.serving.registry import AS_OF, Registry

DEPARTS = datetime(2013, 6, 2, 16, tzinfo=UTC)
COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
        ("carrier", pa.string()),
        ("distance", pa.float64()),
        ("departs", pa.timestamp("us", "UTC")),
        ("label", pa.float64()),
    ]
)


def rows(count: int, prefix: str = "F") -> list[dict[str, Any]]:
    """Rows of a dataset: every third carrier AA, every seventh distance missing."""
    return [
        {
            "key": f"{prefix}-{number}",
            "time": DEPARTS,
            "carrier": ("AA", "UA", None)[number % 3],
            "distance": None if number % 7 == 0 else float(number % 3000),
            "departs": DEPARTS,
            "label": float(number % 2),
        }
        for number in range(count)
    ]


def add_dataset(
    registry: Registry, folder: Path, train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]
) -> int:
    """A dataset with real files, as the data service stores them; its number."""
    files = {}
    for name, part in ((TRAIN_FILE, train), (TEST_FILE, test)):
        path = folder / name
        pq.write_table(pa.Table.from_pylist(list(part), schema=COLUMNS), path)
        files[name] = DatasetFile(registry.store.put_file(path), path.stat().st_size, len(part))
    digest = registry.store.put_bytes(orjson.dumps({"files": files_section(files)}))
    with registry.sessions.begin() as session:
        pipeline = session.exec(select(Pipeline)).one()
        number = 100 + len(session.exec(select(Dataset)).all())
        session.add(
            Dataset(
                pipeline_id=pipeline.id,
                number=number,
                spec_version=1,
                state=DatasetState.READY,
                as_of=AS_OF,
                digest=digest,
            )
        )
        return number


def add_event(registry: Registry, key: str, departs: datetime = DEPARTS, **payload: Any) -> None:
    """An event as the data service stores it."""
    with registry.sessions.begin() as session:
        pipeline = session.exec(select(Pipeline)).one()
        session.add(
            Event(
                pipeline_id=pipeline.id,
                key=key,
                event_time=departs,
                available_at=departs,
                content_digest=uuid.uuid4().hex,
                payload=payload,
                spec_version=1,
            )
        )


def work(sessions: Sessions, store: ArtifactStore, settings: ServingSettings | None = None) -> None:
    """What serving's worker does with the nudges that wait: each once, oldest first."""
    with sessions.begin() as session:
        waiting = list(session.exec(select(OutboxMessage).where(OutboxMessage.task == "serving.precompute")))
        row_ids = [message.row_id for message in waiting]
        for message in waiting:
            session.delete(message)
    for row_id in row_ids:
        precompute_row(row_id, sessions, store, CommonSettings(), settings or ServingSettings())


def generations(session: Session) -> list[Precompute]:
    """All rows, oldest first."""
    return list(session.exec(select(Precompute).order_by(Precompute.number)))  # type: ignore[arg-type]


async def answering(replica: Replica, number: int, model: str = "delays") -> None:
    """Wait until this replica answers from a generation."""

    def switched() -> bool:
        found = replica.serving.generations.get(model)
        return found is not None and found.offline.number == number

    await until(switched, f"generation {number} answers")
