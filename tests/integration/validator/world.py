"""A small pipeline with real rows, real ONNX models and a real dataset, as the other services leave them in the registry."""

import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from services.serving import releases
from services.serving.schemas import PromoteRequest
from shared.artifacts import ArtifactStore, open_store
from shared.ids import new_id
from shared.manifest import TEST_FILE, DatasetFile, files_section
from shared.registry.session import Sessions
from shared.registry.states import CycleState, DatasetState, RunState
from shared.registry.tables import (
    Cycle,
    Dataset,
    Deployment,
    ModelVersion,
    Pipeline,
    PredictionRequest,
    Run,
    SpecVersion,
    Validation,
)
from shared.spec import PipelineSpec, parse, spec_digest
from tests.onnx_models import linear_model

START = datetime(2013, 3, 1, tzinfo=UTC)
"""When the test window begins; nothing was trained on later rows."""
DAYS, PER_DAY = 14, 150


def spec_document(task: str = "binary", **gate: Any) -> dict[str, Any]:
    return {
        "name": "flights",
        "task": task,
        "key": "id",
        "time": "departure",
        "features": {"distance": {"type": "number"}, "carrier": {"type": "category", "vocabulary": 4}},
        "label": {"name": "late"},
        "gate": gate,
    }


@dataclass
class World:
    """One pipeline in a registry of its own."""

    sessions: Sessions
    store: ArtifactStore
    spec: PipelineSpec
    pipeline_id: uuid.UUID = field(default_factory=new_id)
    number: int = 0

    @classmethod
    def make(cls, sessions: Sessions, artifacts_url: str, document: dict[str, Any] | None = None) -> "World":
        spec = parse(document or spec_document())
        world = cls(sessions, open_store(artifacts_url), spec)
        with sessions.begin() as session:
            session.add(Pipeline(id=world.pipeline_id, name=spec.name, spec_version=1))
            session.flush()
            session.add(
                SpecVersion(
                    pipeline_id=world.pipeline_id, number=1, digest=spec_digest(spec), spec=spec.model_dump(mode="json")
                )
            )
        return world

    def rows(self, seed: int = 1, start: datetime = START, days: int = DAYS) -> pa.Table:
        """Test rows whose true probability is sigmoid(distance); a regression's label is distance plus noise."""
        rng = np.random.default_rng(seed)
        count = days * PER_DAY
        distance = rng.normal(-1, 1.2, count)
        if self.spec.task == "binary":
            label = (rng.random(count) < 1 / (1 + np.exp(-distance))).astype(float)
        else:
            label = distance + rng.normal(0, 1, count)
        times = [start + timedelta(days=i // PER_DAY, minutes=i % PER_DAY) for i in range(count)]
        return pa.table(
            {
                "key": [f"k{i}" for i in range(count)],
                "time": pa.array(times, pa.timestamp("us", tz="UTC")),
                "distance": pa.array(distance, pa.float64()),
                "carrier": pa.array([None if i % 7 == 0 else "UA" for i in range(count)]),
                "label": label,
            }
        )

    def version(
        self,
        weight: float = 1.0,
        bias: float = 0.0,
        *,
        rows: pa.Table | None = None,
        broken: bool = False,
        train_end: datetime = START,
        as_of: datetime | None = None,
    ) -> ModelVersion:
        """A trained version with its run and dataset, in the state CANDIDATE."""
        self.number += 1
        table = self.rows() if rows is None else rows
        data = linear_model(weight, bias, sigmoid=self.spec.task == "binary", broken=broken)
        dataset_id, run_id = new_id(), new_id()
        moment = as_of or START + timedelta(days=DAYS)
        with self.sessions.begin() as session:
            session.add(
                Dataset(
                    id=dataset_id,
                    pipeline_id=self.pipeline_id,
                    number=self.number,
                    spec_version=1,
                    state=DatasetState.READY,
                    as_of=moment,
                    digest=self.dataset(table),
                )
            )
            session.flush()
            session.add(
                Run(
                    id=run_id,
                    pipeline_id=self.pipeline_id,
                    dataset_id=dataset_id,
                    spec_version=1,
                    state=RunState.SUCCEEDED,
                    seed=7,
                )
            )
            session.flush()
            version = ModelVersion(
                id=new_id(),
                pipeline_id=self.pipeline_id,
                number=self.number,
                run_id=run_id,
                dataset_id=dataset_id,
                spec_version=1,
                digest=self.store.put_bytes(data),
                size_bytes=len(data),
                signature={
                    "inputs": [
                        {"name": "distance", "kind": "number", "required": False},
                        {"name": "carrier", "kind": "category", "required": False},
                    ],
                    "output": "score",
                    "task": self.spec.task,
                },
                as_of=moment,
                train_end=train_end,
                train_label_mean=0.3 if self.spec.task == "binary" else -1.0,
            )
            session.add(version)
        return version

    def dataset(self, table: pa.Table) -> str:
        """Store the test split and the manifest; its digest names the dataset."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        data = buffer.getvalue()
        file = DatasetFile(self.store.put_bytes(data), len(data), table.num_rows)
        return self.store.put_bytes(orjson.dumps({"files": files_section({TEST_FILE: file})}))

    def cycle(self) -> uuid.UUID:
        """A cycle that waits for its verdict."""
        cycle = Cycle(
            id=new_id(),
            pipeline_id=self.pipeline_id,
            state=CycleState.VALIDATING,
            trigger="manual",
            as_of=START,
            spec_version=1,
        )
        with self.sessions.begin() as session:
            session.add(cycle)
        return cycle.id

    def validation(self, candidate: ModelVersion, **values: Any) -> uuid.UUID:
        """A queued validation."""
        row = Validation(id=new_id(), pipeline_id=self.pipeline_id, candidate_id=candidate.id, **values)
        with self.sessions.begin() as session:
            session.add(row)
        return row.id

    def deploy(self, version: ModelVersion) -> int:
        """Put a version into production by serving's own use case, with a named override."""
        order = PromoteRequest(version=version.number, override="test set-up")
        with self.sessions.begin() as session:
            return releases.promote(session, self.spec.name, order, "tester").generation

    def get(self, table: Any, key: Any) -> Any:
        """A row as it is now."""
        with self.sessions.begin() as session:
            return session.get_one(table, key)

    def live(self) -> Deployment | None:
        with self.sessions.begin() as session:
            return session.get(Deployment, self.pipeline_id)

    def log(
        self,
        version: ModelVersion,
        keys: Sequence[str],
        times: Sequence[datetime],
        scores: Sequence[float],
        *,
        pinned: bool = False,
    ) -> uuid.UUID:
        """Log one answered request, as serving's shipper does."""
        now = datetime.now(UTC)
        row = PredictionRequest(
            request_id=new_id(),
            requested_at=now,
            pipeline_id=self.pipeline_id,
            version_id=version.id,
            version_number=version.number,
            generation=1,
            pinned=pinned,
            keys=list(keys),
            event_times=list(times),
            available_ats=[now] * len(keys),
            instances=[{} for _ in keys],
            scores=list(scores),
            latency_us=100,
            api_key_id="0123456789ab",
        )
        with self.sessions.begin() as session:
            session.add(row)
        return row.request_id


def artifacts_url(folder: Path) -> str:
    return f"file://{folder}/artifacts"
