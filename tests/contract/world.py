"""A registry in which every path of the four services leads somewhere: one pipeline with a row of each kind, real files behind."""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, argument

from services.data.config import DataSettings
from services.data.datasets import request_dataset
from services.data.decode import MediaType, decode
from services.data.ingest import ingest_events, open_target
from services.data.tasks import build_row
from services.serving import releases
from services.serving.schemas import PromoteRequest
from shared.artifacts import open_store
from shared.config import CommonSettings
from shared.contracts.scopes import ADMIN, Scope
from shared.ids import new_id
from shared.keys import Principal, create_key, ensure_key
from shared.registry.session import Sessions
from shared.registry.states import CycleState, Decision, RunState, ValidationState, VersionState
from shared.registry.tables import Alert, Dataset, MonitoringDay, PredictionRequest, RunProgress
from tests.support.rows import Rows
from tests.unit.data.samples import SPEC, at, event, labelled, labelled_month
from tests.unit.serving.tiny_model import finish

NAME = "trips"
ADMIN_KEY = "rlv_aaaaaaaaaaaa_" + "a" * 43
NOTHING_KEY = "rlv_bbbbbbbbbbbb_" + "b" * 43
"""Can do what no route asks for but one: list nothing, send nothing, only `predict:version`."""
SIGNATURE = {
    "inputs": [
        {"name": "carrier", "kind": "category", "required": False},
        {"name": "distance", "kind": "number", "required": False},
        {"name": "booked", "kind": "timestamp", "required": True},
        {"name": "began", "kind": "timestamp", "required": True},
        {"name": "embedding", "kind": "vector", "required": True, "length": 2},
    ],
    "output": "score",
    "task": "binary",
}


@dataclass(frozen=True)
class World:
    """The names of what is there."""

    known: dict[str, str]
    """Path parameters that lead to a row: `p`, `n`, `split`, and ids by the part of the path before them, as `runs/id`."""

    def path(self, template: str) -> str:
        """A path of the API with its parameters filled in."""
        parts = template.split("/")
        for place, part in enumerate(parts):
            if part.startswith("{"):
                parts[place] = self.value(parts[place - 1], part[1:-1])
        return "/".join(parts)

    def value(self, before: str, name: str) -> str:
        """A known value of a path parameter, given the part of the path before it."""
        return self.known.get(f"{before}/{name}") or self.known[name]


def make_world(sessions: Sessions, settings: CommonSettings) -> World:
    """Write one of each: spec, events, labels, quarantine, dataset, run, versions, verdicts, cycle, deployment, predictions,
    monitoring, alert and keys."""
    store, rows = open_store(settings.artifacts_url), Rows(sessions)
    pipeline = rows.pipeline(**SPEC)
    target = open_target(sessions, NAME)
    events = [*labelled_month(), {**event(900, 1), "distance": "far"}]
    ingest_events(sessions, target, decode(orjson.dumps(events), MediaType.JSON, target.spec, DataSettings()))
    with sessions.begin() as session:
        dataset = request_dataset(session, NAME, at(31), None).id
    build_row(dataset, sessions, store, settings, DataSettings())
    assert rows.get(Dataset, dataset).state == "ready", rows.get(Dataset, dataset).reason

    run = rows.run(pipeline, dataset, state=RunState.SUCCEEDED)
    with sessions.begin() as session:
        session.add(RunProgress(run_id=run, fence=0, epoch=1, train_loss=0.5, valid_loss=0.6, is_best=True, seconds=1))
    versions = []
    for state, base in ((VersionState.VALIDATED, 0.25), (VersionState.HELD, 0.5)):
        made = run if not versions else rows.run(pipeline, dataset, state=RunState.SUCCEEDED)
        data = trip_model(base)
        facts = {"digest": store.put_bytes(data), "size_bytes": len(data), "signature": SIGNATURE}
        versions.append(rows.version(pipeline, made, state=state, as_of=at(31), train_end=at(25), **facts))
    passed = rows.validation(pipeline, versions[0], state=ValidationState.PASSED, decision=Decision.PROMOTE)
    against = {"baseline_id": versions[0], "baseline_generation": 1, "sentence": "It is held."}
    held = rows.validation(pipeline, versions[1], state=ValidationState.INCONCLUSIVE, decision=Decision.HOLD, **against)
    cycle = rows.cycle(pipeline, state=CycleState.TRAINING, dataset_id=dataset, run_id=rows.run(pipeline, dataset))
    with sessions.begin() as session:
        releases.promote(session, NAME, PromoteRequest(version=1), "world")
        alert = _alert(pipeline, passed)
        session.add_all([_predictions(pipeline, versions[0]), _day(pipeline), alert])
        ensure_key(session, ADMIN_KEY, "admin", ADMIN)
        ensure_key(session, NOTHING_KEY, "nobody", [Scope.PREDICT_VERSION])
        admin = Principal("aaaaaaaaaaaa", "admin", frozenset(ADMIN), None)
        spare, _ = create_key(session, name="spare", scopes=[Scope.READ], by=admin)
        key_id = spare.id
    known = {"p": NAME, "n": "1", "split": "train", "key": "t0001", "keys/id": key_id}
    ids = {"runs": run, "cycles": cycle, "validations": held, "alerts": alert.id}
    return World(known | {f"{kind}/id": str(value) for kind, value in ids.items()})


def trip_model(base: float) -> bytes:
    """score = base for every row; all inputs of the pipeline are there and have to fit."""
    shapes = {
        "carrier": (np.str_, ("n",)),
        "distance": (np.float32, ("n",)),
        "booked": (np.int64, ("n",)),
        "began": (np.int64, ("n",)),
        "embedding": (np.float32, ("n", 2)),
    }
    inputs = {name: argument(Tensor(kind, shape)) for name, (kind, shape) in shapes.items()}
    count = op.shape(inputs["carrier"])
    return finish(inputs, op.expand(op.const(np.float32(base)), count))


def trip(number: int = 1, **fields: Any) -> dict[str, Any]:
    """One instance."""
    return event(2000 + number, 40, **fields)


def trip_event(number: int = 1, **fields: Any) -> dict[str, Any]:
    """One event with its label."""
    return labelled(3000 + number, 20, **fields)


def _predictions(pipeline: uuid.UUID, version: uuid.UUID) -> PredictionRequest:
    times = [at(32), at(32) + timedelta(hours=1)]
    return PredictionRequest(
        request_id=new_id(),
        requested_at=at(32),
        pipeline_id=pipeline,
        version_id=version,
        version_number=1,
        generation=1,
        pinned=False,
        keys=["p1", "p2"],
        event_times=times,
        available_ats=times,
        instances=[{}, {}],
        scores=[0.25, 0.25],
        latency_us=100,
        api_key_id="aaaaaaaaaaaa",
    )


def _day(pipeline: uuid.UUID) -> MonitoringDay:
    facts: dict[str, Any] = {"mean_prediction": 0.25, "bias": -0.25, "model_age_s": 3600.0, "versions": [1]}
    return MonitoringDay(
        pipeline_id=pipeline, day=at(32).date(), predictions=2, labelled=0, computed_at=at(33), **facts
    )


def _alert(pipeline: uuid.UUID, validation: uuid.UUID) -> Alert:
    return Alert(
        id=new_id(), pipeline_id=pipeline, kind="candidate-worse", severity="warning", message="Worse.",
        validation_id=validation,
    )  # fmt: skip
