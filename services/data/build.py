"""Building a dataset: pin what may be seen, read it, join it, write it, name it. A rebuild runs the same steps on the same pins."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from services.data import repository
from services.data.config import DataSettings
from services.data.files import WrittenSplit, dataset_schema, write_splits
from services.data.manifest import Manifest, Split
from services.data.metrics import DATASET_ROWS
from services.data.source import Cut, read_extracts
from services.data.split import windows
from services.data.statistics import split_statistics
from shared.artifacts import ArtifactStore
from shared.errors import Invalid, LeaseLost
from shared.jobs.lease import Lease, extend, finish
from shared.observability.metrics import JOB_SECONDS, JOBS
from shared.registry.session import Sessions, ingest_settled
from shared.registry.states import DatasetState
from shared.registry.tables import Dataset, SpecVersion
from shared.scratch import scratch
from shared.spec import PipelineSpec, TimestampFeature, VectorFeature, parse
from shared.spec.types import format_duration

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything a dataset depends on."""

    spec: PipelineSpec
    spec_version: int
    spec_digest: str
    cut: Cut


@dataclass(frozen=True)
class Built:
    """A dataset on disk, complete but not stored."""

    manifest: Manifest
    splits: dict[Split, WrittenSplit]


class Watch:
    """Told of each step as it begins and asked again and again within; raises to stop the build."""

    def step(self, name: str) -> None:
        """A step begins."""

    def check(self) -> None:
        """Go on, or raise."""


class LeaseWatch(Watch):
    """Writes each step to the row, and stops when the lease is lost or the worker is asked to stop."""

    def __init__(self, sessions: Sessions, lease: Lease) -> None:
        self._sessions, self._lease, self._began = sessions, lease, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the build began."""
        return time.monotonic() - self._began

    def step(self, name: str) -> None:
        extend(self._sessions, self._lease, progress={"step": name, "seconds": round(self.seconds, 2)})
        self.check()

    def check(self) -> None:
        self._lease.check()


def plan_of(dataset: Dataset, version: SpecVersion) -> Plan:
    """The plan that a row with pinned watermarks stands for."""
    spec = parse(version.spec)
    marks = (dataset.event_watermark, dataset.label_watermark, dataset.prediction_watermark)
    assert None not in marks, "watermarks are pinned before anything is read"
    pinned = {name: mark or 0 for name, mark in zip(("events", "labels", "predictions"), marks, strict=True)}
    cut = Cut(dataset.pipeline_id, dataset.as_of, pinned, windows(spec, dataset.as_of))
    return Plan(spec, version.number, version.digest, cut)


def run_build(sessions: Sessions, store: ArtifactStore, limits: DataSettings, lease: Lease) -> None:
    """Build the claimed dataset and mark it ready, files first: a row that is ready has its files.

    Raises:
        Invalid: its windows hold no labelled example; the message says what to do.
        LeaseLost: another worker has the row; nothing was written to it.
        WorkerStops: this worker was asked to stop; hand the row over.
        Unavailable, OperationalError: a passing fault; give the row back.
    """
    watch = LeaseWatch(sessions, lease)
    with ingest_settled(sessions, watch.check) as session:
        dataset = repository.pin_watermarks(session, lease.row_id, lease.fence)
        if dataset is None:
            raise LeaseLost("The dataset was taken by another worker.")
        plan = plan_of(dataset, repository.get_spec(session, dataset.pipeline_id, dataset.spec_version))
    with scratch() as folder:
        built = build(sessions, limits, plan, folder, watch)
        watch.step("computing statistics")
        statistics = {name: split_statistics(split.path) for name, split in built.splits.items()}
        watch.step("storing")
        for split in built.splits.values():
            store.put_file(split.path)
        store.put_bytes(built.manifest.encode())
    with finish(sessions, lease, DatasetState.READY) as (_, row):
        _complete(row, built.manifest, statistics)
        row.progress = {"step": "done", "seconds": round(watch.seconds, 2)}
    JOBS.labels("dataset", "ready").inc()
    JOB_SECONDS.labels("dataset").observe(watch.seconds)
    for name, split in built.splits.items():
        DATASET_ROWS.labels(plan.spec.name, name).set(split.entry.file.rows)
    log.info("dataset built", pipeline=plan.spec.name, number=dataset.number, seconds=round(watch.seconds, 2))


def build(sessions: Sessions, limits: DataSettings, plan: Plan, folder: Path, watch: Watch | None = None) -> Built:
    """Read, join and write the dataset of a plan into `folder`.

    Raises:
        Invalid: a window holds no labelled example.
    """
    from services.data import engine  # the web service, which only verifies now and then, starts without it

    spec, watch = plan.spec, watch or Watch()
    watch.step("reading events, predictions and labels")
    extracts = read_extracts(sessions, plan.cut, spec, folder, query_s=limits.build_query_s, check=watch.check)
    watch.step("joining and writing")
    batches = engine.labelled_examples(
        extracts, needed=_needed(spec), missing_label=0.0 if spec.label.if_missing == "negative" else None
    )
    splits = write_splits(_watched(batches, watch), spec, plan.cut.windows, folder)
    for name, split in splits.items():
        if not split.entry.file.rows:
            raise Invalid(_empty(spec, name, str(split.entry.window)))
    manifest = Manifest(
        pipeline=spec.name,
        spec_version=plan.spec_version,
        spec_digest=plan.spec_digest,
        as_of=plan.cut.as_of,
        watermarks=plan.cut.watermarks,
        label={
            "name": spec.label.name,
            "mature_after": format_duration(spec.label.mature_after),
            "if_missing": spec.label.if_missing,
        },
        columns=[{"name": field.name, "type": str(field.type)} for field in dataset_schema(spec)],
        engine={"daft": engine.version(), "pyarrow": pa.__version__},
        splits={name: split.entry for name, split in splits.items()},
    )
    return Built(manifest, splits)


def _watched(batches: Iterable[pa.RecordBatch], watch: Watch) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        watch.check()
        yield batch


def _needed(spec: PipelineSpec) -> list[str]:
    """Features without which a row is no example: an event from before the spec asked for them may lack them."""
    return [
        name
        for name, feature in spec.input_features.items()
        if name != spec.time
        and (isinstance(feature, TimestampFeature | VectorFeature) or getattr(feature, "required", False))
    ]


def _empty(spec: PipelineSpec, split: str, window: str) -> str:
    return (
        f"No labelled example lies in the {split} window, {window}. Send events and labels of that time, ask with another "
        "as_of, or change dataset.window, dataset.test or label.mature_after (an example counts once it is "
        f"{format_duration(spec.label.mature_after)} old at as_of)."
    )


def _complete(row: Any, manifest: Manifest, statistics: dict[Split, dict[str, Any]]) -> None:
    train, test = manifest.splits["train"], manifest.splits["test"]
    row.digest = manifest.digest
    row.train_start, row.train_end, row.train_rows = train.window.start, train.window.end, train.file.rows
    row.test_start, row.test_end, row.test_rows = test.window.start, test.window.end, test.file.rows
    row.train_label_mean = statistics["train"]["columns"]["label"]["mean"]
    row.statistics = statistics
    row.reason = None
