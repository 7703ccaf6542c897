"""Ground truth, written by whoever receives it (data: labels; serving: feedback), and the one rule that says which label counts.

The effective label does not depend on arrival order: highest source rank, then latest label time, then content digest.
"""

import hashlib
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from shared.registry.session import lock_for_ingest
from shared.registry.tables import Label


class LabelSource(StrEnum):
    """Where a label came from, from strongest to weakest."""

    EXPLICIT = "explicit"  #: someone states the truth
    EVENT = "event"  #: the label column of an uploaded event
    IMPLICIT = "implicit"  #: inferred from behaviour, such as a click


RANK = {LabelSource.EXPLICIT: 30, LabelSource.EVENT: 20, LabelSource.IMPLICIT: 10}
CHUNK_ROWS = 5000
"""Rows a statement; PostgreSQL takes at most 65,535 parameters in one."""
EFFECTIVE_ORDER = "source_rank desc, label_time desc, content_digest desc"
"""SQL order in which the first label of an example is its effective one."""


@dataclass(frozen=True)
class NewLabel:
    """One label as received, already checked: exactly one of `key` and `prediction` is given."""

    label: float
    label_time: datetime
    available_at: datetime
    source: LabelSource
    key: str | None = None
    prediction: tuple[uuid.UUID, int] | None = None
    """Request id and row index of a verified prediction id."""

    @property
    def content_digest(self) -> str:
        """sha256 hex over what is said, about what, as of when and by which kind of source."""
        about = (
            f"key\x1f{self.key}" if self.prediction is None else f"row\x1f{self.prediction[0]}\x1f{self.prediction[1]}"
        )
        moment = self.label_time.astimezone(UTC).isoformat(timespec="microseconds")
        return hashlib.sha256(f"{about}\x1f{float(self.label)!r}\x1f{moment}\x1f{self.source}".encode()).hexdigest()


def label_problem(value: float, task: str) -> str | None:
    """What is wrong with a label's value for this task, or None."""
    if not math.isfinite(value):
        return "must be a finite number"
    if task == "binary" and value not in (0, 1):
        return "must be 0 or 1 (or false or true) in a binary pipeline"
    return None


def insert_labels(session: Session, pipeline_id: uuid.UUID, labels: Sequence[NewLabel]) -> list[bool]:
    """Append labels in the caller's transaction; a label already known is left alone.

    Returns:
        For each label in order, whether it was new (False: a duplicate, stored before or earlier in the list).
    """
    if not labels:
        return []
    lock_for_ingest(session)
    rows: dict[str, dict[str, Any]] = {}
    for label in labels:
        request_id, row_index = label.prediction or (None, None)
        rows.setdefault(
            label.content_digest,
            {
                "pipeline_id": pipeline_id,
                "key": label.key,
                "request_id": request_id,
                "row_index": row_index,
                "label": float(label.label),
                "label_time": label.label_time,
                "available_at": label.available_at,
                "source": label.source,
                "source_rank": RANK[label.source],
                "content_digest": label.content_digest,
            },
        )
    values = list(rows.values())
    new: set[str] = set()
    for start in range(0, len(values), CHUNK_ROWS):
        statement = (
            insert(Label)
            .values(values[start : start + CHUNK_ROWS])
            .on_conflict_do_nothing(constraint="labels_pipeline_content")
            .returning(col(Label.content_digest))
        )
        new |= set(session.scalars(statement))
    verdicts = []
    for label in labels:
        verdicts.append(label.content_digest in new)
        new.discard(label.content_digest)
    return verdicts
