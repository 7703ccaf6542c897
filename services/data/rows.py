"""From a row as sent to an event or a label that can be stored, or to the reason why not. Pure: no I/O, no clock."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from shared.errors import FieldError, Invalid
from shared.instances import (
    AVAILABLE_AT,
    CLOCK_SKEW,
    MAX_PROBLEMS,
    Instance,
    InstanceReader,
    RowProblem,
    epoch_us,
    read_key,
    read_stated_at,
    shown_name,
)
from shared.labels import LabelSource, NewLabel, label_problem
from shared.spec import PipelineSpec

LABEL_TIME = "label_time"
MAX_KEPT_CHARS = 64 * 1024
"""Quarantine keeps at most so much of a row."""

VerifyPrediction = Callable[[str], Any]
"""Prediction id to (request id, row), raising Invalid for one that was not issued for the pipeline."""

_LABEL_FIELDS = frozenset({"key", "prediction_id", "label", "time", "source", AVAILABLE_AT})


@dataclass(slots=True)
class Event:
    """One event, ready to be stored."""

    instance: Instance
    digest: str
    """sha256 hex over event time and payload: the same key with another digest is a conflict."""
    payload_json: str
    label: NewLabel | None


@dataclass(slots=True)
class Unreadable:
    """A row that is not even JSON, as it came."""

    text: str
    reason: str


class EventReader:
    """Reads the events of one pipeline. An event is an instance, and may carry its label and since when that is known."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._label_name, self._task = spec.label.name, spec.task
        self._reader = InstanceReader(spec, max_ahead=CLOCK_SKEW, also={spec.label.name, LABEL_TIME})

    def read(self, row: object, received_at: datetime) -> Event:
        """Check and normalise one event.

        Raises:
            RowProblem: lists everything that is wrong.
        """
        errors: list[FieldError] = []
        instance = None
        if type(row) is Unreadable:
            raise RowProblem([{"loc": [], "msg": row.reason}])
        try:
            instance = self._reader.read(row, received_at=received_at)
        except RowProblem as problem:
            errors += problem.errors
        label = self._label(row, instance, received_at, errors) if type(row) is dict else None
        if errors or instance is None:
            raise RowProblem(errors)
        payload = orjson.dumps(instance.payload, option=orjson.OPT_SORT_KEYS)
        digest = hashlib.sha256(b"%d\n%b" % (epoch_us(instance.time), payload)).hexdigest()
        return Event(instance, digest, payload.decode(), label)

    def _label(
        self, row: dict[str, Any], instance: Instance | None, received_at: datetime, errors: list[FieldError]
    ) -> NewLabel | None:
        value, given = row.get(self._label_name), row.get(LABEL_TIME)
        known_at = None
        if given is not None:
            try:
                known_at = read_stated_at(given, received_at)
            except ValueError as error:
                errors.append({"loc": [LABEL_TIME], "msg": str(error)})
        if value is None:
            return None
        try:
            label = read_label(value, self._task)
        except ValueError as error:
            errors.append({"loc": [self._label_name], "msg": str(error)})
            return None
        if instance is None:
            return None
        return NewLabel(
            label=label,
            label_time=known_at or instance.available_at,
            # A truth is not available before it is known, however early its event was.
            available_at=min(max(known_at or instance.available_at, instance.available_at), received_at),
            source=LabelSource.EVENT,
            key=instance.key,
            timed=known_at is not None or row.get(AVAILABLE_AT) is not None,
        )


class LabelReader:
    """Reads labels sent for one pipeline: `{key | prediction_id, label, time?, source?, available_at?}`."""

    def __init__(self, spec: PipelineSpec, verify: VerifyPrediction) -> None:
        self._task, self._verify = spec.task, verify

    def read(self, row: object, received_at: datetime) -> NewLabel:
        """Check and normalise one label.

        Raises:
            RowProblem: lists everything that is wrong.
        """
        if type(row) is Unreadable:
            raise RowProblem([{"loc": [], "msg": row.reason}])
        if type(row) is not dict:
            raise RowProblem([{"loc": [], "msg": "must be an object: {key or prediction_id, label, time?, source?}"}])
        errors: list[FieldError] = []

        def field(name: str, parse: Callable[[Any], Any], default: Any = None) -> Any:
            if (value := row.get(name)) is None:
                return default
            try:
                return parse(value)
            except Invalid as error:
                errors.append({"loc": [name], "msg": error.detail})
            except ValueError as error:
                errors.append({"loc": [name], "msg": str(error)})
            return default

        key = field("key", read_key)
        prediction = field("prediction_id", self._read_prediction)
        if (row.get("key") is None) == (row.get("prediction_id") is None):
            errors.append({"loc": [], "msg": "needs either key or prediction_id"})
        if row.get("label") is None:
            errors.append({"loc": ["label"], "msg": "is required"})
        label = field("label", lambda value: read_label(value, self._task))
        available_at = field(AVAILABLE_AT, lambda value: read_stated_at(value, received_at), received_at)
        time = field("time", lambda value: read_stated_at(value, received_at), available_at)
        source = field("source", _read_source, LabelSource.EXPLICIT)
        unknown = sorted(map(str, row.keys() - _LABEL_FIELDS))[:MAX_PROBLEMS]
        errors += [{"loc": [shown_name(name)], "msg": "is no field of a label"} for name in unknown]
        if errors:
            raise RowProblem(errors[:MAX_PROBLEMS])
        return NewLabel(
            label=label,
            label_time=time,
            available_at=min(max(available_at, time), received_at),
            source=source,
            key=key,
            prediction=prediction,
            timed=row.get("time") is not None or row.get(AVAILABLE_AT) is not None,
        )

    def _read_prediction(self, value: object) -> Any:
        if type(value) is not str:
            raise ValueError("must be a text")
        return self._verify(value)


def read_label(value: object, task: str) -> float:
    """A label's value; true and false are 1 and 0.

    Raises:
        ValueError: no number, not finite, or not one that the task knows.
    """
    if type(value) is bool:
        value = int(value)
    if type(value) not in (int, float):
        raise ValueError("must be a number")
    try:
        label = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError("must be a finite number") from None
    if problem := label_problem(label, task):
        raise ValueError(problem)
    return label + 0.0


def kept_text(row: object) -> str:
    """A refused row as quarantine keeps it: JSON in ASCII, or the text that is not JSON, cut at `MAX_KEPT_CHARS`."""
    if type(row) is Unreadable:
        return ascii(row.text[:MAX_KEPT_CHARS])[1:-1][:MAX_KEPT_CHARS]
    try:
        return json.dumps(row, ensure_ascii=True, separators=(",", ":"), default=str)[:MAX_KEPT_CHARS]
    except (RecursionError, ValueError):
        return "(nested too deeply to be kept)"


def _read_source(value: object) -> LabelSource:
    for source in (LabelSource.EXPLICIT, LabelSource.IMPLICIT):
        if value == source:
            return source
    raise ValueError("must be explicit or implicit")
