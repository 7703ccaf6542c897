"""The use case: the truth about predictions, item by item. A wrong item is told why and never stops the others.

A prediction id carries its own proof, so feedback may arrive before the prediction's log row, and a forged id is refused unseen.
"""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session

from services.serving.models.catalogue import Pipeline
from services.serving.schemas import FeedbackResponse, FeedbackVerdict
from shared.errors import Invalid
from shared.instances import CLOCK_SKEW, read_key, read_stated_at, shown_name
from shared.labels import LabelSource, NewLabel, insert_labels, label_problem
from shared.prediction_ids import PredictionIds

FIELDS = frozenset({"prediction_id", "key", "model", "label", "time", "source", "available_at"})
FIRST_MS = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""No prediction is older, but by a clock that was wrong."""
SOURCES = {"explicit": LabelSource.EXPLICIT, "implicit": LabelSource.IMPLICIT}


class _Rejected(ValueError):
    """Why an item is not taken."""


@dataclass(frozen=True, slots=True)
class _Read:
    """An item that can be taken."""

    index: int
    label: NewLabel


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the items."""

    report: FeedbackResponse
    delays_s: Mapping[str, Sequence[float]]
    """By pipeline: how long after its prediction each new label was known, where the item names the prediction."""


def take_feedback(
    session: Session, items: Sequence[object], pipelines: Sequence[Pipeline], ids: PredictionIds, received_at: datetime
) -> Taken:
    """Store what can be taken, in the caller's transaction.

    Args:
        items: as parsed from JSON.
        pipelines: those the caller may see.
        ids: verifies prediction ids.
        received_at: when the items were received; what times default to.
    """
    verdicts: dict[int, FeedbackVerdict] = {}
    batches: dict[uuid.UUID, list[_Read]] = {}
    reader = _Reader(pipelines, ids, received_at)
    for index, item in enumerate(items):
        try:
            pipeline, label = reader.read(item)
        except _Rejected as reason:
            verdicts[index] = FeedbackVerdict(index=index, status="rejected", reason=str(reason))
        else:
            batches.setdefault(pipeline.id, []).append(_Read(index, label))
    names = {pipeline.id: pipeline.name for pipeline in pipelines}
    delays_s: dict[str, list[float]] = {}
    # Everyone goes through the pipelines in the same order: no two requests wait for each other in a circle.
    for pipeline_id, batch in sorted(batches.items()):
        delays = delays_s[names[pipeline_id]] = []
        for read, new in zip(batch, insert_labels(session, pipeline_id, [read.label for read in batch]), strict=True):
            verdicts[read.index] = FeedbackVerdict(index=read.index, status="accepted" if new else "duplicate")
            if new and read.label.prediction is not None:
                delay_s = read.label.label_time.timestamp() - _predicted_ms(read.label.prediction[0]) / 1000
                if delay_s >= 0:  # a replay's moments are not those of its requests
                    delays.append(delay_s)
    results = [verdicts[index] for index in range(len(items))]
    counts = Counter(verdict.status for verdict in results)
    report = FeedbackResponse(
        results=results, accepted=counts["accepted"], duplicates=counts["duplicate"], rejected=counts["rejected"]
    )
    return Taken(report, delays_s)


class _Reader:
    """Reads the items of one request."""

    def __init__(self, pipelines: Sequence[Pipeline], ids: PredictionIds, received_at: datetime) -> None:
        self._pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._likely = list(pipelines)
        self._ids = ids
        self._received_at = received_at
        self._last_ms = (received_at + CLOCK_SKEW).timestamp() * 1000

    def read(self, item: object) -> tuple[Pipeline, NewLabel]:
        """The pipeline and the label of an item.

        Raises:
            _Rejected: it says what is wrong.
        """
        if type(item) is not dict:
            raise _Rejected("must be an object")
        if not item.keys() <= FIELDS:
            raise _Rejected(f"{shown_name(min(map(str, item.keys() - FIELDS)))}: is no field of feedback")
        prediction_id, key = item.get("prediction_id"), item.get("key")
        if (prediction_id is None) == (key is None):
            raise _Rejected("give either prediction_id or key")
        model = item.get("model")
        if model is not None and (type(model) is not str or model not in self._pipelines):
            raise _Rejected("model: there is no pipeline of that name")
        source = item.get("source", "explicit")
        if type(source) is not str or source not in SOURCES:
            raise _Rejected("source: must be explicit or implicit")
        available_at = _field(item, "available_at", self._received_at, self._read_moment)
        known_at = _field(item, "time", available_at, self._read_moment)
        if prediction_id is None:
            pipeline, prediction = self._of_key(model), None
            key = _field(item, "key", None, read_key)
        else:
            pipeline, prediction = self._of_prediction(prediction_id, model)
        return pipeline, NewLabel(
            label=_label(item.get("label"), pipeline.task),
            label_time=known_at,
            available_at=min(max(available_at, known_at), self._received_at),
            source=SOURCES[source],
            key=key,
            prediction=prediction,
            timed=item.get("time") is not None or item.get("available_at") is not None,
        )

    def _read_moment(self, value: object) -> datetime:
        return read_stated_at(value, self._received_at)

    def _of_key(self, model: str | None) -> Pipeline:
        if model is not None:
            return self._pipelines[model]
        if not self._pipelines:
            raise _Rejected("there is no pipeline to give feedback to")
        if len(self._pipelines) > 1:
            raise _Rejected(f"model: is required beside key: there are {len(self._pipelines)} pipelines")
        return next(iter(self._pipelines.values()))

    def _of_prediction(self, text: object, model: str | None) -> tuple[Pipeline, tuple[uuid.UUID, int]]:
        if type(text) is not str:
            raise _Rejected("prediction_id: must be a text")
        candidates = self._likely if model is None else [self._pipelines[model]]
        for place, pipeline in enumerate(candidates):
            try:
                prediction = self._ids.verify(pipeline.name, text)
            except Invalid:
                continue
            if not FIRST_MS <= _predicted_ms(prediction[0]) <= self._last_ms:
                raise _Rejected("prediction_id: carries a time that cannot be: the clock that made it was wrong")
            candidates.insert(0, candidates.pop(place))  # the next item is likely about the same pipeline
            return pipeline, prediction
        raise _Rejected("prediction_id: was not issued here; send the id exactly as /predict returned it")


def _field(item: Mapping[str, Any], name: str, default: Any, parse: Any) -> Any:
    if (value := item.get(name)) is None:
        return default
    try:
        return parse(value)
    except ValueError as error:
        raise _Rejected(f"{name}: {error}") from None


def _label(value: object, task: str) -> float:
    if type(value) not in (bool, int, float):
        raise _Rejected("label: must be a number" if value is not None else "label: is required")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise _Rejected("label: must be a finite number") from None
    if (wrong := label_problem(number, task)) is not None:
        raise _Rejected(f"label: {wrong}")
    return number + 0.0  # -0.0 and 0.0 are one label


def _predicted_ms(request_id: uuid.UUID) -> int:
    """When the request was received: the time in its id, epoch milliseconds."""
    return request_id.int >> 80
