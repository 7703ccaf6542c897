"""From a request's raw scores to what is answered and logged of them, under the configuration in force at that moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import msgspec
import numpy as np

from services.serving.postprocessing.current import Configuration
from services.serving.postprocessing.plan import Note
from services.serving.rows import Row, RowCodec, to_json


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a request for a list asks beside its candidates, which are in the order of their keys."""

    k: int | None
    trace: bool
    places: Sequence[int]
    """Where in the request each candidate stood."""


class Under(msgspec.Struct, omit_defaults=True):
    """Which post-processing an answer went through; `MadeUnder` in the schema."""

    removals: int
    number: int | None = None
    spec_version: int | None = None


@dataclass(slots=True)
class Processed:
    """A request's scores after post-processing."""

    final: list[float | None]
    """One a row, for the log; None where a row was removed or is not in the list."""
    under: Under
    body: bytes
    """The answer's fields behind the model and its version, with the closing brace."""

    def floats(self) -> list[float]:
        """`final` for tensors: NaN in the place of None."""
        return [nan if score is None else score for score in self.final]


@dataclass(slots=True)
class Scores:
    """A request's rows with their raw scores; its columns are read when a stage asks for them."""

    codec: RowCodec
    rows: Sequence[Row]
    keys: list[str]
    ids: Sequence[str]
    raw: list[float]
    feeds: Mapping[str, np.ndarray]
    """Of the batch that the rows were scored in: vectors are arrays there already."""
    start: int
    """The request's first row in it."""

    def values(self, name: str) -> list[Any]:
        """As `Columns.values`."""
        get = self.codec.getter(name)
        return [None] * len(self.rows) if get is None else list(map(get, self.rows))

    def vectors(self, name: str) -> np.ndarray:
        """As `Columns.vectors`."""
        fed = self.feeds.get(name)
        if fed is None or fed.ndim != 2:  # another version's field: these rows do not have it
            return np.zeros((len(self.rows), 1), np.float32)
        return fed[self.start : self.start + len(self.rows)]


class _Prediction(msgspec.Struct, gc=False, omit_defaults=True):
    prediction_id: str
    key: str
    score: float | None
    raw_score: float | None
    decision: bool | msgspec.UnsetType | None = msgspec.UNSET
    removed: bool | None = None


class _Item(msgspec.Struct, gc=False, omit_defaults=True):
    prediction_id: str
    key: str
    position: int
    score: float
    raw_score: float
    trace: list[Note] | None = None


class _Dropped(msgspec.Struct, gc=False):
    prediction_id: str
    key: str
    raw_score: float
    trace: list[Note]


def process(configuration: Configuration, scores: Scores, ranking: Ranking | None) -> Processed:
    """Process a request's scores: a list, or each for itself."""
    under = Under(configuration.removals.sequence, configuration.number, configuration.spec_version)
    if ranking is None:
        final, body = _singles(configuration, scores)
    else:
        final, body = _list(configuration, scores, ranking)
    return Processed(final, under, b'%b,"postprocessing":%b}' % (body, to_json(under)))


def _singles(configuration: Configuration, scores: Scores) -> tuple[list[float | None], bytes]:
    done = configuration.plan.single(scores.raw, scores.keys, scores)
    decisions: Sequence[Any] = done.decisions or [msgspec.UNSET] * len(scores.keys)
    predictions = [
        _Prediction(id_, key, score, None if score is None else raw, decision, True if score is None else None)
        for id_, key, score, raw, decision in zip(
            scores.ids, scores.keys, done.scores, scores.raw, decisions, strict=True
        )
    ]
    return done.scores, b'"predictions":%b' % to_json(predictions)


def _list(configuration: Configuration, scores: Scores, ranking: Ranking) -> tuple[list[float | None], bytes]:
    ids, keys, raw = scores.ids, scores.keys, scores.raw
    done = configuration.plan.rank(raw, keys, scores, k=ranking.k, trace=ranking.trace)
    notes = done.notes
    items = [
        _Item(ids[index], keys[index], place, done.scores[index], raw[index], None if notes is None else notes[index])
        for place, index in enumerate(done.order, start=1)
    ]
    final: list[float | None] = [None] * len(keys)
    for index in done.order:
        final[index] = done.scores[index]
    body = b'"items":%b' % to_json(items)
    if notes is not None:
        inside = set(done.order)
        dropped = [_Dropped(ids[i], keys[i], raw[i], notes[i]) for i in range(len(keys)) if i not in inside]
        body += b',"dropped":%b' % to_json(dropped)
    return final, body
