"""Ground truth, written by whoever receives it (data: labels; serving: feedback), and the one rule that says which label counts.

The effective label does not depend on arrival order: highest source rank, then latest label time, then content digest.
"""

import hashlib
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import text
from sqlmodel import Session

from shared.registry.session import lock_for_ingest


class LabelSource(StrEnum):
    """Where a label came from, from strongest to weakest."""

    EXPLICIT = "explicit"  #: someone states the truth
    EVENT = "event"  #: the label column of an uploaded event
    IMPLICIT = "implicit"  #: inferred from behaviour, such as a click


RANK = {LabelSource.EXPLICIT: 30, LabelSource.EVENT: 20, LabelSource.IMPLICIT: 10}
CHUNK_ROWS = 20_000
"""Rows a statement."""
_MICROSECOND = timedelta(microseconds=1)
EFFECTIVE_ORDER = "source_rank desc, label_time desc, content_digest desc"
"""SQL order in which the first label of an example is its effective one."""


About = tuple[object, ...]
"""Which example a label is about, and which kind of source says so."""


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
    timed: bool = True
    """Whether the sender said since when it is known. If not, it is the last word of its source when it is received, whatever
    was said before, and repeating the last word is a duplicate, so that a request may be sent again."""

    @property
    def about(self) -> About:
        """Which example it is about, and which kind of source says so."""
        return (self.key, self.source) if self.prediction is None else (*self.prediction, self.source)

    @cached_property
    def content_digest(self) -> str:
        """sha256 hex over what is said, about what, as of when and by which kind of source."""
        about = (
            f"key\x1f{self.key}" if self.prediction is None else f"row\x1f{self.prediction[0]}\x1f{self.prediction[1]}"
        )
        moment = self.label_time.astimezone(UTC).isoformat(timespec="microseconds")
        return hashlib.sha256(f"{about}\x1f{float(self.label)!r}\x1f{moment}\x1f{self.source}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Word:
    """What a source said last about an example."""

    label: float
    time: datetime
    digest: str
    received_at: datetime | None = None
    """When it was stored; None for one of the same list."""


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
    untimed = [label for label in labels if not label.timed]
    dated = date_untimed(labels, _last_words(session, pipeline_id, untimed)) if untimed else labels
    rows = {label.content_digest: label for label in reversed(dated) if label is not None}
    # Everyone inserts in the same order: two writers of the same labels wait for each other, and never in a circle.
    digests = sorted(rows)
    new: set[str] = set()
    for start in range(0, len(digests), CHUNK_ROWS):
        some = digests[start : start + CHUNK_ROWS]
        # One JSON document: an array for each column would be escaped value by value, which takes longer than the insert.
        document = orjson.dumps([_row(rows[digest]) for digest in some]).decode()
        new |= set(session.scalars(_INSERT, {"pipeline_id": pipeline_id, "rows": document}))
    verdicts = []
    for label in dated:
        verdicts.append(label is not None and label.content_digest in new)
        if label is not None:
            new.discard(label.content_digest)
    return verdicts


def date_untimed(labels: Sequence[NewLabel], last: Mapping[About, Word]) -> list[NewLabel | None]:
    """Give untimed labels the moments that make each the last word when it was said; None for one that changes nothing.

    So one list and several with the same labels end alike, and a list that is sent again changes nothing, even one that takes
    back what it said itself.

    Args:
        labels: in the order in which they were said; an untimed one has the moment of its receipt.
        last: the stored last words about what the untimed ones are about.
    """
    ends: dict[About, Word] = {}
    for _ in _say(labels, ends):
        pass
    settled = {about for about, word in last.items() if about in ends and ends[about].label == word.label}
    said = dict(last)
    return [None if not label.timed and label.about in settled else dated for label, dated in _say(labels, said)]


def _say(labels: Sequence[NewLabel], said: dict[About, Word]) -> Iterator[tuple[NewLabel, NewLabel | None]]:
    """Each label with itself as dated (None: a repetition), after the words that were said before it."""
    for label in labels:
        about = label.about
        before = said.get(about)
        dated = label
        if not label.timed and before is not None:
            if before.label == label.label:
                yield label, None
                continue
            # One that was held up while a later one was stored stays behind it.
            if before.received_at is None or before.received_at <= label.label_time:
                dated = replace(label, label_time=max(label.label_time, before.time + _MICROSECOND))
        if before is None or (dated.label_time, dated.content_digest) >= (before.time, before.digest):
            said[about] = Word(label.label, dated.label_time, dated.content_digest)
        yield label, dated


def _row(label: NewLabel) -> dict[str, Any]:
    request_id, row_index = label.prediction or (None, None)
    return {
        "key": label.key,
        "request_id": request_id,
        "row_index": row_index,
        "label": float(label.label),
        "label_time": label.label_time,
        "available_at": label.available_at,
        "source": label.source,
        "source_rank": RANK[label.source],
        "content_digest": label.content_digest,
    }


def _last_words(session: Session, pipeline_id: uuid.UUID, labels: Sequence[NewLabel]) -> dict[About, Word]:
    """The latest stored word of each source about what these labels are about."""
    last: dict[About, Word] = {}
    if keys := sorted({label.key for label in labels if label.key is not None}):
        for key, source, *word in session.execute(_LAST_BY_KEY, {"pipeline_id": pipeline_id, "keys": keys}):
            last[key, source] = Word(*word)
    if requests := list({label.prediction[0] for label in labels if label.prediction is not None}):
        found = session.execute(_LAST_BY_PREDICTION, {"pipeline_id": pipeline_id, "request_ids": requests})
        for request_id, row_index, source, *word in found:
            last[request_id, row_index, source] = Word(*word)
    return last


_INSERT = text("""
    insert into labels (pipeline_id, key, request_id, row_index, label, label_time, available_at, source, source_rank,
                        content_digest)
    select :pipeline_id, r.* from json_to_recordset(cast(:rows as json)) as r(
        key text, request_id uuid, row_index int, label float8, label_time timestamptz, available_at timestamptz,
        source text, source_rank int, content_digest text)
    on conflict on constraint labels_pipeline_content do nothing
    returning content_digest
""")
_LAST_BY_KEY = text("""
    select distinct on (key, source) key, source, label, label_time, content_digest, received_at from labels
    where pipeline_id = :pipeline_id and key = any(:keys)
    order by key, source, label_time desc, content_digest desc
""")
_LAST_BY_PREDICTION = text("""
    select distinct on (request_id, row_index, source) request_id, row_index, source, label, label_time, content_digest, received_at
    from labels
    where pipeline_id = :pipeline_id and request_id = any(:request_ids)
    order by request_id, row_index, source, label_time desc, content_digest desc
""")
