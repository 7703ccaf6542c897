"""Taking in events and labels: each row is accepted, known already, or kept in quarantine with the reason."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from sqlmodel import Session

from services.data import repository
from services.data.decode import Rows
from services.data.metrics import ROWS
from services.data.rows import Event, EventReader, LabelReader, kept_text
from shared.instances import RowProblem
from shared.labels import NewLabel, insert_labels
from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions, lock_for_ingest
from shared.spec import PipelineSpec, parse

CONFLICT = "the key is known with other content; the first one stays"


@dataclass(frozen=True)
class Target:
    """The pipeline that rows are for, and when they were received (database time)."""

    pipeline_id: uuid.UUID
    name: str
    spec: PipelineSpec
    spec_version: int
    received_at: datetime


@dataclass
class Verdicts:
    """What became of each row of an upload."""

    accepted: int = 0
    duplicates: int = 0
    quarantined: list[dict[str, object]] = field(default_factory=list)
    """`index` (place of the row in the upload, from 0) and `reason`."""

    def add(self, accepted: int, duplicates: int, refused: "Iterable[_Refused]") -> None:
        """Add a chunk whose transaction has committed."""
        self.accepted += accepted
        self.duplicates += duplicates
        self.quarantined += [{"index": row.index, "reason": row.reason} for row in refused]

    def count(self, kind: str) -> None:
        """Export the counts."""
        ROWS.labels(kind, "accepted").inc(self.accepted)
        ROWS.labels(kind, "duplicate").inc(self.duplicates)
        ROWS.labels(kind, "quarantined").inc(len(self.quarantined))


@dataclass(slots=True)
class _Refused:
    index: int
    reason: str
    row: object


Item = TypeVar("Item", Event, NewLabel)


@dataclass
class _Chunk(Generic[Item]):
    """Some consecutive rows, read."""

    items: list[tuple[int, Item, object]] = field(default_factory=list)
    """Place in the upload, what was read, and the row as sent."""
    refused: list[_Refused] = field(default_factory=list)


def open_target(sessions: Sessions, name: str) -> Target:
    """The pipeline that an upload names.

    Raises:
        NotFound: there is none.
    """
    with sessions.begin() as session:
        pipeline = repository.get_pipeline(session, name)
        spec = repository.get_spec(session, pipeline.id, pipeline.spec_version)
        now = repository.database_now(session)
        return Target(pipeline.id, pipeline.name, parse(spec.spec), spec.number, now)


def ingest_events(sessions: Sessions, target: Target, rows: Rows) -> Verdicts:
    """Store events, each chunk of rows in one transaction with its labels and its quarantine."""
    reader = EventReader(target.spec)
    verdicts = Verdicts()
    for chunk in _read(rows, lambda row: reader.read(row, target.received_at)):
        with sessions.begin() as session:
            lock_for_ingest(session)
            accepted = _store_events(session, target, chunk)
            _keep(session, target, "event", chunk.refused)
        verdicts.add(accepted, len(chunk.items) - accepted, chunk.refused)
    verdicts.count("event")
    return verdicts


def _store_events(session: Session, target: Target, chunk: _Chunk[Event]) -> int:
    """Store what is new, move conflicts from the chunk's items to its refused, and return how many were new."""
    first: dict[str, Event] = {}
    for _, event, _ in chunk.items:
        first.setdefault(event.instance.key, event)
    in_order = [first[key] for key in sorted(first)]
    new = repository.insert_events(session, target.pipeline_id, target.spec_version, in_order)
    known = {key: first[key].digest for key in new}
    known |= repository.event_digests(session, target.pipeline_id, sorted(first.keys() - new))
    taken = []
    for index, event, row in chunk.items:
        if known.get(event.instance.key) == event.digest:
            taken.append((index, event, row))
        else:
            chunk.refused.append(_Refused(index, f"{target.spec.key}: {CONFLICT}", row))
    chunk.items = taken
    chunk.refused.sort(key=lambda refused: refused.index)
    insert_labels(session, target.pipeline_id, [event.label for _, event, _ in taken if event.label is not None])
    return len(new)


def ingest_labels(sessions: Sessions, target: Target, rows: Rows, ids: PredictionIds) -> Verdicts:
    """Store labels, each chunk of rows in one transaction with its quarantine."""
    reader = LabelReader(target.spec, lambda text: ids.verify(target.name, text))
    verdicts = Verdicts()
    for chunk in _read(rows, lambda row: reader.read(row, target.received_at)):
        with sessions.begin() as session:
            new = sum(insert_labels(session, target.pipeline_id, [label for _, label, _ in chunk.items]))
            _keep(session, target, "label", chunk.refused)
        verdicts.add(new, len(chunk.items) - new, chunk.refused)
    verdicts.count("label")
    return verdicts


def _read(rows: Rows, read: Callable[[object], Item]) -> Iterator[_Chunk[Item]]:
    offset = 0
    for values in rows:
        chunk: _Chunk[Item] = _Chunk()
        for index, row in enumerate(values, offset):
            try:
                chunk.items.append((index, read(row), row))
            except RowProblem as problem:
                chunk.refused.append(_Refused(index, problem.reason, row))
        offset += len(values)
        yield chunk


def _keep(session: Session, target: Target, kind: str, refused: Iterable[_Refused]) -> None:
    repository.quarantine(session, target.pipeline_id, kind, [(row.reason, kept_text(row.row)) for row in refused])
