"""The use case: the truth about predictions, item by item. A wrong item is told why and never stops the others.

A prediction id carries its own proof, so feedback may arrive before the prediction's log row, and a forged id is refused unseen.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session

from services.serving.models.catalogue import Pipeline
from services.serving.schemas import FeedbackResponse, FeedbackVerdict
from shared.errors import Invalid
from shared.instances import read_available_at, read_key
from shared.labels import LabelSource, NewLabel, insert_labels, label_problem
from shared.prediction_ids import PredictionIds

FIELDS = frozenset({"prediction_id", "key", "model", "label", "time", "source", "available_at"})
SOURCES = {"explicit": LabelSource.EXPLICIT, "implicit": LabelSource.IMPLICIT}


class _Rejected(ValueError):
    """Why an item is not taken."""


@dataclass(frozen=True, slots=True)
class _Read:
    """An item that can be taken."""

    index: int
    label: NewLabel


def take_feedback(
    session: Session, items: Sequence[object], pipelines: Sequence[Pipeline], ids: PredictionIds, received_at: datetime
) -> FeedbackResponse:
    """Store what can be taken, in the caller's transaction.

    Args:
        items: as parsed from JSON.
        pipelines: those the caller may see.
        ids: verifies prediction ids.
        received_at: when the items were received; what times default to.
    """
    verdicts: dict[int, FeedbackVerdict] = {}
    batches: dict[uuid.UUID, list[_Read]] = {}
    by_name = {pipeline.name: pipeline for pipeline in pipelines}
    for index, item in enumerate(items):
        try:
            pipeline, read = _read(index, item, by_name, ids, received_at)
        except _Rejected as reason:
            verdicts[index] = FeedbackVerdict(index=index, status="rejected", reason=str(reason))
        else:
            batches.setdefault(pipeline.id, []).append(read)
    for pipeline_id, batch in sorted(batches.items()):
        for read, new in zip(batch, insert_labels(session, pipeline_id, [read.label for read in batch]), strict=True):
            verdicts[read.index] = FeedbackVerdict(index=read.index, status="accepted" if new else "duplicate")
    results = [verdicts[index] for index in range(len(items))]
    count = {
        status: sum(verdict.status == status for verdict in results) for status in ("accepted", "duplicate", "rejected")
    }
    return FeedbackResponse(
        results=results, accepted=count["accepted"], duplicates=count["duplicate"], rejected=count["rejected"]
    )


def _read(
    index: int, item: object, pipelines: Mapping[str, Pipeline], ids: PredictionIds, received_at: datetime
) -> tuple[Pipeline, _Read]:
    if type(item) is not dict:
        raise _Rejected("must be an object")
    if unknown := sorted(map(str, item.keys() - FIELDS)):
        raise _Rejected(f"{unknown[0][:64]}: is no field of feedback")
    prediction_id, key = item.get("prediction_id"), item.get("key")
    if (prediction_id is None) == (key is None):
        raise _Rejected("give either prediction_id or key")
    model = item.get("model")
    if model is not None and (type(model) is not str or model not in pipelines):
        raise _Rejected("model: there is no pipeline of that name")
    source = item.get("source", "explicit")
    if type(source) is not str or source not in SOURCES:
        raise _Rejected("source: must be explicit or implicit")
    available_at = _field(item, "available_at", received_at, lambda value: read_available_at(value, received_at))
    known_at = _field(item, "time", available_at, lambda value: read_available_at(value, received_at))
    candidates = [pipelines[model]] if model is not None else list(pipelines.values())
    if prediction_id is None:
        pipeline, about = _by_key(candidates), {"key": _field(item, "key", None, read_key)}
    else:
        pipeline, prediction = _by_prediction(prediction_id, candidates, ids)
        about = {"prediction": prediction}
    label = NewLabel(
        label=_label(item.get("label"), pipeline.task),
        label_time=known_at,
        available_at=max(available_at, known_at),
        source=SOURCES[source],
        timed=item.get("time") is not None or item.get("available_at") is not None,
        **about,
    )
    return pipeline, _Read(index, label)


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


def _by_key(candidates: Sequence[Pipeline]) -> Pipeline:
    if not candidates:
        raise _Rejected("there is no pipeline to give feedback to")
    if len(candidates) > 1:
        raise _Rejected(f"model: is required beside key: there are {len(candidates)} pipelines")
    return candidates[0]


def _by_prediction(
    text: object, candidates: Sequence[Pipeline], ids: PredictionIds
) -> tuple[Pipeline, tuple[uuid.UUID, int]]:
    if type(text) is not str:
        raise _Rejected("prediction_id: must be a text")
    refusal = "prediction_id: was not issued here; send the id exactly as /predict returned it"
    for pipeline in candidates:
        try:
            return pipeline, ids.verify(pipeline.name, text)
        except Invalid:
            continue
    raise _Rejected(refusal)
