"""Registry rows as the services leave them, for tests of what reads and moves them."""

import io
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import delete, func, select, update
from sqlmodel import col

from shared.artifacts import ArtifactStore, Digest
from shared.ids import new_id
from shared.manifest import TRAIN_FILE, DatasetFile, files_section
from shared.registry.session import Sessions
from shared.registry.states import DatasetState, RunState
from shared.registry.tables import (
    Cycle,
    Dataset,
    ModelVersion,
    OutboxMessage,
    Pipeline,
    Precompute,
    Run,
    SpecVersion,
    Validation,
)
from shared.spec import parse, spec_digest

AS_OF = datetime(2013, 4, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "name": "trips",
    "task": "binary",
    "key": "id",
    "time": "begins",
    "features": {"city": {"type": "category", "vocabulary": 4}, "size": {"type": "number", "scale": "standard"}},
    "label": {"name": "late"},
    "network": {"hidden": [4], "embedding": 2},
    "training": {"epochs": 2, "batch_size": 64, "refit": False},
}


def train_table(rows: int = 300) -> pa.Table:
    """A train split whose label depends on both features."""
    rng = np.random.default_rng(3)
    size, city = rng.normal(size=rows), rng.choice(["Rome", "Oslo"], rows)
    return pa.table(
        {
            "key": [f"k{index}" for index in range(rows)],
            "time": pa.array(
                [AS_OF - timedelta(days=30, minutes=index) for index in range(rows)], pa.timestamp("us", tz="UTC")
            ),
            "city": city.tolist(),
            "size": size,
            "label": ((size + (city == "Rome") + rng.normal(size=rows)) > 0).astype(float),
        }
    )


class Rows:
    """Writes rows into a registry; every reading is of the present."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._numbers = 0

    def pipeline(self, *, created_at: datetime | None = None, **changes: Any) -> uuid.UUID:
        """A pipeline with its first spec version."""
        spec = parse({**SPEC, **changes})
        pipeline = Pipeline(id=new_id(), name=spec.name, spec_version=1)
        row = SpecVersion(
            pipeline_id=pipeline.id, number=1, digest=spec_digest(spec), spec=spec.model_dump(mode="json")
        )
        if created_at is not None:
            row.created_at = created_at
        self.add(pipeline)
        self.add(row)
        return pipeline.id

    def retune(self, pipeline_id: uuid.UUID, **training: Any) -> None:
        """Change the training settings in place, as nobody but a test may: long to be interrupted, short to end."""
        with self.sessions.begin() as session:
            row = session.get_one(SpecVersion, (pipeline_id, 1))
            row.spec = {**row.spec, "training": {**row.spec["training"], **training}}

    def dataset(self, pipeline_id: uuid.UUID, **values: Any) -> uuid.UUID:
        """A dataset that waits to be built, or what `values` say."""
        self._numbers += 1
        facts = {"as_of": AS_OF, "spec_version": 1}
        row = Dataset(id=new_id(), pipeline_id=pipeline_id, number=self._numbers, **{**facts, **values})
        self.add(row)
        return row.id

    def ready_dataset(self, pipeline_id: uuid.UUID, digest: str | None = None, **values: Any) -> uuid.UUID:
        """A dataset that can be trained on."""
        facts = {
            "state": DatasetState.READY,
            "digest": digest or "d" * 64,
            "train_end": AS_OF,
            "train_label_mean": 0.5,
            "train_rows": 300,
        }
        return self.dataset(pipeline_id, **{**facts, **values})

    def run(self, pipeline_id: uuid.UUID, dataset_id: uuid.UUID | None = None, **values: Any) -> uuid.UUID:
        """A run that waits, or what `values` say."""
        dataset_id = dataset_id or self.ready_dataset(pipeline_id)
        row = Run(id=new_id(), pipeline_id=pipeline_id, dataset_id=dataset_id, spec_version=1, seed=7, **values)
        self.add(row)
        return row.id

    def version(self, pipeline_id: uuid.UUID, run_id: uuid.UUID | None = None, **values: Any) -> uuid.UUID:
        """A version that came of a succeeded run."""
        run_id = run_id or self.run(pipeline_id, state=RunState.SUCCEEDED)
        facts = {"digest": "e" * 64, "size_bytes": 1, "as_of": AS_OF, "train_end": AS_OF, "train_label_mean": 0.5}
        with self.sessions.begin() as session:
            highest = session.scalar(
                select(func.max(ModelVersion.number)).where(col(ModelVersion.pipeline_id) == pipeline_id)
            )
            version = ModelVersion(
                id=new_id(),
                pipeline_id=pipeline_id,
                number=(highest or 0) + 1,
                run_id=run_id,
                dataset_id=session.get_one(Run, run_id).dataset_id,
                spec_version=1,
                **{**facts, **values},
            )
            session.add(version)
        return version.id

    def validation(self, pipeline_id: uuid.UUID, candidate_id: uuid.UUID | None = None, **values: Any) -> uuid.UUID:
        """A verdict that waits, or what `values` say."""
        candidate_id = candidate_id or self.version(pipeline_id)
        row = Validation(id=new_id(), pipeline_id=pipeline_id, candidate_id=candidate_id, **values)
        self.add(row)
        return row.id

    def cycle(self, pipeline_id: uuid.UUID, **values: Any) -> uuid.UUID:
        """A cycle at its beginning, or what `values` say."""
        facts = {"trigger": "manual", "as_of": AS_OF, "spec_version": 1}
        row = Cycle(id=new_id(), pipeline_id=pipeline_id, **{**facts, **values})
        self.add(row)
        return row.id

    def precompute(self, pipeline_id: uuid.UUID, **values: Any) -> uuid.UUID:
        """A generation of offline predictions that waits, or what `values` say."""
        self._numbers += 1
        row = Precompute(
            id=new_id(),
            pipeline_id=pipeline_id,
            number=self._numbers,
            source={"keys_seen": {}},
            **{"trigger": "request", **values},
        )
        self.add(row)
        return row.id

    def get(self, table: Any, key: Any) -> Any:
        """A row as it is now."""
        with self.sessions.begin() as session:
            return session.get_one(table, key)

    def all(self, table: Any) -> list[Any]:
        """Every row of a table."""
        with self.sessions.begin() as session:
            return list(session.scalars(select(table)))

    def set(self, table: Any, key: Any, **values: Any) -> None:
        """Write columns of a row; values may be SQL."""
        with self.sessions.begin() as session:
            session.execute(update(table).where(table.id == key).values(**values))

    def nudges(self) -> list[tuple[str, uuid.UUID]]:
        """What was ever nudged, oldest first."""
        with self.sessions.begin() as session:
            rows = session.scalars(select(OutboxMessage).order_by(col(OutboxMessage.id)))
            return [(row.task, row.row_id) for row in rows]

    def forget_nudges(self) -> None:
        """Empty the outbox."""
        with self.sessions.begin() as session:
            session.execute(delete(OutboxMessage))

    def add(self, row: Any) -> None:
        """Any row."""
        with self.sessions.begin() as session:
            session.add(row)


def store_dataset(store: ArtifactStore, table: pa.Table) -> Digest:
    """Store a train split and its manifest as the data service does; the manifest's digest names the dataset."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data = buffer.getvalue()
    file = DatasetFile(store.put_bytes(data), len(data), table.num_rows)
    return store.put_bytes(orjson.dumps({"files": files_section({TRAIN_FILE: file})}))
