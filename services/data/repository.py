"""All SQL of the data service but the bulk reads of a dataset build (`source.py`)."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, select, text
from sqlmodel import Session, col

from services.data.rows import Event
from shared.errors import NotFound
from shared.jobs.lease import nudge
from shared.jobs.work import DATASET
from shared.keys import no_such_pipeline
from shared.registry.tables import Dataset, Pipeline, QuarantinedRow, SpecVersion
from shared.web.pagination import PageRequest, newest_first

QUARANTINE_LOCK = 7_305_422
"""First half of the advisory lock, by pipeline, between those who write to quarantine."""


def database_now(session: Session) -> datetime:
    """The transaction's time by the database's clock."""
    return session.scalars(select(func.now())).one()


# Pipelines and their specs


def find_pipeline(session: Session, name: str, *, lock: bool = False) -> Pipeline | None:
    """The pipeline of that name; with `lock`, nobody else can change it or number a row of it until the transaction ends."""
    query = select(Pipeline).where(col(Pipeline.name) == name)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def get_pipeline(session: Session, name: str, *, lock: bool = False) -> Pipeline:
    """The pipeline of that name.

    Raises:
        NotFound: there is none.
    """
    pipeline = find_pipeline(session, name, lock=lock)
    if pipeline is None:
        raise no_such_pipeline()
    return pipeline


def get_spec(session: Session, pipeline_id: uuid.UUID, number: int) -> SpecVersion:
    """One spec version that a row names."""
    return session.get_one(SpecVersion, (pipeline_id, number))


def list_specs(session: Session, pipeline_id: uuid.UUID) -> Sequence[SpecVersion]:
    """All spec versions of a pipeline, newest first."""
    query = select(SpecVersion).where(col(SpecVersion.pipeline_id) == pipeline_id)
    return session.scalars(query.order_by(col(SpecVersion.number).desc())).all()


def list_pipelines(
    session: Session, page: PageRequest[uuid.UUID], names: Iterable[str] | None
) -> Sequence[tuple[Pipeline, SpecVersion]]:
    """Pipelines with their current spec, newest first; only those named, where names are given."""
    query: Any = select(Pipeline, SpecVersion).join(
        SpecVersion,
        (col(SpecVersion.pipeline_id) == col(Pipeline.id)) & (col(SpecVersion.number) == col(Pipeline.spec_version)),
    )
    if names is not None:
        query = query.where(col(Pipeline.name).in_(sorted(names)))
    return [(row[0], row[1]) for row in session.execute(newest_first(query, Pipeline.id, page))]


# Events and quarantine


def insert_events(session: Session, pipeline_id: uuid.UUID, spec_version: int, events: Sequence[Event]) -> set[str]:
    """Append events whose key is new; the first content under a key stays.

    Args:
        events: at most one for each key, sorted by key, so that two writers never wait for each other in a circle.

    Returns:
        The keys that were new.
    """
    # One JSON document: an array for each column would be escaped value by value, which takes longer than the insert.
    rows = orjson.dumps(
        [
            {
                "key": event.instance.key,
                "event_time": event.instance.time,
                "available_at": event.instance.available_at,
                "digest": event.digest,
                "payload": orjson.Fragment(event.payload_json),
            }
            for event in events
        ]
    ).decode()
    return set(session.scalars(_INSERT_EVENTS, {"pipeline": pipeline_id, "spec_version": spec_version, "rows": rows}))


def event_digests(session: Session, pipeline_id: uuid.UUID, keys: Sequence[str]) -> dict[str, str]:
    """Content digest of the stored event under each of these keys."""
    rows = session.execute(_EVENT_DIGESTS, {"pipeline": pipeline_id, "keys": list(keys)})
    return {row.key: row.content_digest for row in rows}


def quarantine(session: Session, pipeline_id: uuid.UUID, kind: str, rows: Sequence[tuple[str, str]]) -> None:
    """Keep rows that could not be taken, each with its reason and its text; one that is kept already is counted.

    Call it last in a transaction: it waits for others that do the same, so that two never wait for each other in a circle.
    """
    if not rows:
        return
    session.execute(_LOCK_QUARANTINE, {"lock": QUARANTINE_LOCK, "pipeline": str(pipeline_id)})
    document = [
        {
            "reason": reason,
            "payload": payload,
            "digest": hashlib.sha256(f"{reason}\x1f{payload}".encode()).hexdigest(),
            "times": times,
        }
        for (reason, payload), times in Counter(rows).items()
    ]
    session.execute(_QUARANTINE, {"pipeline": pipeline_id, "kind": kind, "rows": orjson.dumps(document).decode()})


def list_quarantine(
    session: Session, pipeline_id: uuid.UUID, page: PageRequest[int], kind: str | None
) -> Sequence[QuarantinedRow]:
    """Quarantined rows, newest first."""
    query = select(QuarantinedRow).where(col(QuarantinedRow.pipeline_id) == pipeline_id)
    if kind is not None:
        query = query.where(col(QuarantinedRow.kind) == kind)
    return session.scalars(newest_first(query, QuarantinedRow.seq, page)).all()


# Datasets


def add_dataset(session: Session, pipeline: Pipeline, as_of: datetime, cycle_id: uuid.UUID | None) -> Dataset:
    """A new dataset row of a pipeline that the caller has locked, and its nudge."""
    last = session.scalar(select(func.max(Dataset.number)).where(col(Dataset.pipeline_id) == pipeline.id))
    dataset = Dataset(
        pipeline_id=pipeline.id,
        number=(last or 0) + 1,
        spec_version=pipeline.spec_version,
        as_of=as_of,
        cycle_id=cycle_id,
    )
    session.add(dataset)
    session.flush()
    nudge(session, DATASET, dataset.id)
    session.refresh(dataset)
    return dataset


def get_dataset(session: Session, pipeline_id: uuid.UUID, number: int) -> Dataset:
    """One dataset by its number.

    Raises:
        NotFound: there is none.
    """
    query = select(Dataset).where(col(Dataset.pipeline_id) == pipeline_id, col(Dataset.number) == number)
    dataset = session.scalars(query).one_or_none()
    if dataset is None:
        raise NotFound("This pipeline has no dataset of that number.")
    return dataset


def list_datasets(session: Session, pipeline_id: uuid.UUID, page: PageRequest[int]) -> Sequence[Dataset]:
    """Datasets of a pipeline, newest first."""
    query = select(Dataset).where(col(Dataset.pipeline_id) == pipeline_id)
    return session.scalars(newest_first(query, Dataset.number, page)).all()


def pin_watermarks(session: Session, dataset_id: uuid.UUID, fence: int) -> Any:
    """Write the highest sequence of each source to the dataset, unless an earlier attempt has: it is read once, for ever.

    Call it within `ingest_settled`, where no append is in flight.

    Returns:
        The dataset row, or None when the fence is no longer the row's.
    """
    session.execute(_PIN, {"id": dataset_id, "fence": fence})
    query = select(Dataset).where(col(Dataset.id) == dataset_id, col(Dataset.fence) == fence)
    return session.scalars(query).one_or_none()


_INSERT_EVENTS = text("""
    insert into events (pipeline_id, key, event_time, available_at, content_digest, payload, spec_version)
    select :pipeline, r.key, r.event_time, r.available_at, r.digest, r.payload, :spec_version
    from json_to_recordset(cast(:rows as json))
        as r(key text, event_time timestamptz, available_at timestamptz, digest text, payload jsonb)
    on conflict on constraint events_pipeline_key do nothing
    returning key
""")
_EVENT_DIGESTS = text("select key, content_digest from events where pipeline_id = :pipeline and key = any(:keys)")
_LOCK_QUARANTINE = text("select pg_advisory_xact_lock(:lock, hashtext(:pipeline))")
_QUARANTINE = text("""
    insert into quarantine (pipeline_id, kind, reason, payload, content_digest, times)
    select :pipeline, :kind, r.reason, r.payload, r.digest, r.times
    from json_to_recordset(cast(:rows as json)) as r(reason text, payload text, digest text, times int)
    on conflict on constraint quarantine_pipeline_content
    do update set times = quarantine.times + excluded.times, last_received_at = now()
""")
_PIN = text("""
    update datasets set
        event_watermark = (select coalesce(max(seq), 0) from events),
        label_watermark = (select coalesce(max(seq), 0) from labels),
        prediction_watermark = (select coalesce(max(seq), 0) from prediction_requests
                                where pipeline_id = datasets.pipeline_id)
    where id = :id and fence = :fence and event_watermark is null
""")
