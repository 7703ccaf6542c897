"""The use case: one generation of offline predictions, from its source to files that are checked, stored and announced."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlmodel import Session

from services.serving import repository
from services.serving.config import ServingSettings
from services.serving.metrics import PRECOMPUTE_ROWS
from services.serving.models.catalogue import Catalogue, Pipeline
from services.serving.models.loader import Loaded, Loader
from services.serving.models.recent import RecentRequests
from services.serving.offline import columns, sources
from services.serving.offline import repository as offline_repository
from services.serving.offline.generation import Rows
from services.serving.offline.manifest import INDEX_FILE, ROWS_FILE, Manifest, read_manifest
from services.serving.offline.parity import Parity, check_parity
from services.serving.offline.scoring import Scored, Scorer, score_rows
from services.serving.offline.seen import keys_seen
from shared.artifacts import ArtifactStore
from shared.config import local_cache_dir
from shared.errors import ArtifactCorrupt, ArtifactMissing, Invalid, LeaseLost, RelevoError
from shared.jobs.faults import DATABASE_FAULTS
from shared.jobs.lease import Lease, extend, finish
from shared.manifest import DatasetFile
from shared.observability.metrics import JOB_SECONDS, JOBS
from shared.registry.session import Sessions
from shared.registry.states import PrecomputeState, check_move
from shared.registry.tables import Dataset, Precompute
from shared.scoring import open_model
from shared.scratch import scratch
from shared.spec import PipelineSpec, parse
from shared.spec.types import parse_duration

log = structlog.get_logger(__name__)

TELL_S = 1.0
"""Time between two writes of the progress."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a generation is made of and by."""

    id: uuid.UUID
    number: int
    pipeline: Pipeline
    version: int
    source: dict[str, Any]
    dataset_digest: str | None
    computed_at: datetime

    @property
    def spec(self) -> PipelineSpec:
        """Of the version that scores."""
        return parse(dict(self.pipeline.specs[self.pipeline.version(self.version).spec_version]))

    @property
    def seed(self) -> int:
        """Of the keys' hash: the random part of the row's id, which nobody knew before."""
        return self.id.int & (2**64 - 1)


class Progress:
    """Writes to the row how far it is, and stops when the lease is lost or the worker is asked to stop."""

    def __init__(self, sessions: Sessions, lease: Lease) -> None:
        self._sessions, self._lease, self._began_s = sessions, lease, time.monotonic()
        self._told_s = 0.0
        self._known: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.monotonic() - self._began_s

    def tell(self, step: str, **known: Any) -> None:
        """A step begins."""
        self._known |= {"step": step, **known}
        self._write()
        self._lease.check()

    def done(self, rows: int) -> None:
        """So many rows are scored."""
        self._lease.check()
        self._known["rows_done"] = rows
        if time.monotonic() - self._told_s >= TELL_S:
            self._write()

    def check(self) -> None:
        """Go on, or raise."""
        self._lease.check()

    @property
    def document(self) -> dict[str, Any]:
        """As the row has it."""
        return {**self._known, "seconds": round(self.seconds, 2)}

    def _write(self) -> None:
        self._told_s = time.monotonic()
        try:
            extend(self._sessions, self._lease, progress=self.document)
        except DATABASE_FAULTS as error:  # the lease outlasts a short one, and says when it does not
            log.warning("progress is not written; going on", error=type(error).__name__)


def run(sessions: Sessions, store: ArtifactStore, settings: ServingSettings, lease: Lease) -> None:
    """Make the claimed generation and mark it ready, files first: a row that is ready has its files.

    Raises:
        Invalid, NotLoadable, ArtifactMissing, ArtifactCorrupt: it cannot be made; the message says why.
        LeaseLost: another worker has the row; nothing was written to it.
        WorkerStops: this worker was asked to stop; hand the row over.
        Unavailable, OperationalError: a passing fault; give the row back.
    """
    progress = Progress(sessions, lease)
    progress.tell("loading the model")
    plan = _plan(sessions, lease)
    loader = Loader(
        store, local_cache_dir("models"), threads=1, recent=RecentRequests(0), max_instances=settings.max_instances
    )
    loaded = loader.load(plan.pipeline, plan.version)
    version = loaded.version
    scorer = Scorer(
        open_model(store.get(version.digest), threads=settings.precompute_threads),
        plan.spec,
        list(version.signature["inputs"]),
        version.number,
    )
    with scratch() as folder:
        progress.tell("reading the rows")
        prepared = _prepare(plan, sessions, store, settings, folder=folder, check=progress.check)
        if not prepared.rows:
            raise Invalid("The source has no row that the version can score.")
        progress.tell(
            "scoring", rows=prepared.rows, rows_done=0, **({"skipped": prepared.skipped} if prepared.skipped else {})
        )
        scored = score_rows(
            sources.read(prepared, plan.spec, version.number), scorer, folder, plan.seed, done=progress.done
        )
        progress.tell("comparing with online", rows=scored.rows)
        manifest, parity = check_and_store(store, plan, scored, loaded)
    with finish(sessions, lease, PrecomputeState.READY) as (session, row):
        _complete(row, plan, manifest, parity, store.put_bytes(manifest.encode()))
        row.progress = {**progress.document, "step": "done"}
        offline_repository.announce(session)
    JOBS.labels("precompute", "ready").inc()
    JOB_SECONDS.labels("precompute").observe(progress.seconds)
    PRECOMPUTE_ROWS.labels(plan.pipeline.name).inc(manifest.rows)
    log.info(
        "offline predictions are ready",
        pipeline=plan.pipeline.name,
        generation=plan.number,
        version=plan.version,
        rows=manifest.rows,
        seconds=round(progress.seconds, 2),
    )


def _plan(sessions: Sessions, lease: Lease) -> Plan:
    with sessions.begin() as session:
        row, dataset_digest, now = _pin(session, lease)
    with sessions.begin() as session:
        catalogue = repository.read_catalogue(session, Catalogue())
    pipeline = next(found for found in catalogue.pipelines.values() if found.id == row.pipeline_id)
    number = next(version.number for version in pipeline.versions.values() if version.id == row.version_id)
    return Plan(row.id, row.number, pipeline, number, row.source, dataset_digest, now)


def _pin(session: Session, lease: Lease) -> tuple[Precompute, str | None, datetime]:
    """Version and dataset are pinned by the first attempt; every other one finds them."""
    row = session.get_one(Precompute, lease.row_id, with_for_update=True)
    if row.fence != lease.fence:
        raise LeaseLost("The generation was taken by another worker.")
    if row.version_id is None:
        live = offline_repository.live_version(session, row.pipeline_id)
        if live is None:
            raise Invalid("No version is in production that could score; a cycle or a promotion deploys one.")
        row.version_id = live.id
    dataset = _dataset(session, row)
    if dataset is not None:
        row.source = {**row.source, "dataset": dataset.number}
    return row, dataset.digest if dataset else None, offline_repository.database_now(session)


def _dataset(session: Session, row: Precompute) -> Dataset | None:
    wanted = row.source.get("dataset")
    if wanted is None:
        return None
    found = offline_repository.ready_dataset(session, row.pipeline_id, None if wanted == "latest" else wanted)
    if found is None:
        what = (
            "This pipeline has no dataset that is ready" if wanted == "latest" else f"The dataset {wanted} is not ready"
        )
        raise Invalid(f"{what}; its rows cannot be scored.")
    return found


def _prepare(
    plan: Plan,
    sessions: Sessions,
    store: ArtifactStore,
    settings: ServingSettings,
    *,
    folder: Path,
    check: Callable[[], None],
) -> sources.Prepared:
    source = plan.source
    if plan.dataset_digest is not None:
        return sources.of_dataset(store, plan.dataset_digest, source.get("split"), local_cache_dir("datasets"))
    if "file" in source:
        body = store.get(source["file"])
        return sources.of_upload(body, plan.spec, plan.version, folder, settings=settings, check=check)
    since = source["keys_seen"].get("since")
    with sessions.begin() as session:
        batches = keys_seen(
            session,
            plan.pipeline.id,
            plan.spec,
            columns.columns_of(plan.spec),
            since=None if since is None else parse_duration(since),
            query_s=settings.precompute_query_s,
            check=check,
        )
        return sources.of_keys_seen(batches, plan.spec, folder)


def check_and_store(store: ArtifactStore, plan: Plan, scored: Scored, loaded: Loaded) -> tuple[Manifest, Parity]:
    """Write the index and compare a sample with online, while the rows, the largest part, are being stored."""
    with ThreadPoolExecutor(1, thread_name_prefix="store") as storing:
        digest = storing.submit(store.put_file, scored.rows_path)
        try:
            index_path = scored.write_index()
            rows = Rows(scored.rows_path, scored.batch_rows)
            parity = check_parity(rows, scored.rows, loaded, seed=plan.number, as_of=plan.computed_at)
        except RelevoError:
            with suppress(RelevoError):
                store.delete(digest.result())  # no other generation has these bytes
            raise
        index = store.put_file(index_path)
        files = {
            ROWS_FILE: DatasetFile(digest.result(), scored.rows_path.stat().st_size, scored.rows),
            INDEX_FILE: DatasetFile(index, index_path.stat().st_size, scored.rows),
        }
    return Manifest(plan.pipeline.name, plan.version, scored.rows, scored.batch_rows, plan.seed, files), parity


def _complete(row: Any, plan: Plan, manifest: Manifest, parity: Parity, digest: str) -> None:
    row.digest, row.rows, row.computed_at = digest, manifest.rows, plan.computed_at
    row.size_bytes = sum(file.size_bytes for file in manifest.files.values())
    row.parity = {"rows": parity.rows, "largest_difference": parity.largest_difference}


def retire(sessions: Sessions, store: ArtifactStore, pipeline_id: uuid.UUID, *, keep: int) -> None:
    """Remove the files of all but the newest generations. Who has them mapped goes on reading them.

    Raises:
        Unavailable, OperationalError: the rest is removed next time.
    """
    with sessions.begin() as session:
        old = [(row.id, row.digest) for row in offline_repository.ready(session, pipeline_id)[keep:]]
    for row_id, digest in old:
        assert digest is not None
        with suppress(ArtifactMissing, ArtifactCorrupt):  # removed by half, the last time
            for file in read_manifest(store.get(digest), digest).digests:
                store.delete(file)
        store.delete(digest)
        with sessions.begin() as session:
            row = session.get_one(Precompute, row_id, with_for_update=True)
            if row.state == PrecomputeState.READY:
                check_move(PrecomputeState.READY, PrecomputeState.RETIRED)
                row.state = PrecomputeState.RETIRED
