"""One reading of what describes an example, for uploaded events and /predict instances alike, so that both mean the same.

Plain closures made once for each pipeline, no model per row: about five microseconds a row. Nothing here does I/O.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.errors import FieldError
from shared.spec.features import CategoryFeature, Feature, NumberFeature, TimestampFeature, VectorFeature
from shared.spec.pipeline import PipelineSpec

AVAILABLE_AT = "available_at"
FIRST, LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Moments must lie in [FIRST, LAST): what the graph's time zone tables cover."""
CLOCK_SKEW = timedelta(minutes=5)
"""A sender's clock may run ahead by this much."""
MAX_KEY_CHARS = 256
MAX_VALUE_CHARS = 4096
MAX_PROBLEMS = 20
"""At most so many problems are told of one row."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_US, _LAST_US = (FIRST - _EPOCH) // _MICROSECOND, (LAST - _EPOCH) // _MICROSECOND

Parse = Callable[[Any], Any]
"""Value as sent to value as kept, None when it means missing; raises ValueError with what is wrong, without the value."""


class RowProblem(ValueError):
    """A row that cannot be taken, with everything that is wrong with it."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        """`loc` within the row (empty: the row itself) and `msg`."""
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        """All problems as one line."""
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"] for e in self.errors)


@dataclass(slots=True)
class Instance:
    """One described example."""

    key: str
    time: datetime
    """Event time, UTC. A timestamp feature that is the spec's `time` stands here and not in the payload."""
    available_at: datetime
    """When the sender knew it, UTC; never later than the receipt."""
    payload: dict[str, Any]
    """Features, entity and columns by name, those that are missing left out: category str, number float, timestamp int
    (epoch microseconds UTC), vector list of float, entity and columns any scalar."""


class InstanceReader:
    """Reads the instances of one pipeline."""

    def __init__(
        self, spec: PipelineSpec, *, max_ahead: timedelta | None = None, also: Collection[str] = frozenset()
    ) -> None:
        """Prepare for a spec.

        Args:
            spec: names the fields and their kinds.
            max_ahead: how far the event time may lie after the receipt; None: as far as it likes (a flight is predicted
                hours before it departs, but an event has happened).
            also: further names a row may hold, which the caller reads (an event's label).
        """
        self._key, self._time, self._max_ahead = spec.key, spec.time, max_ahead
        fields: dict[str, tuple[bool, Parse]] = {}
        for name, feature in spec.input_features.items():
            if name != spec.time:
                required = isinstance(feature, TimestampFeature | VectorFeature) or getattr(feature, "required", False)
                fields[name] = (required, _feature_parse(feature))
        for extra in (spec.entity, *spec.columns):
            if extra and extra not in (spec.key, spec.time):
                fields.setdefault(extra, (False, read_scalar))
        self._fields = [(name, required, parse) for name, (required, parse) in fields.items()]
        self.known = frozenset([spec.key, spec.time, AVAILABLE_AT, *fields, *also])
        """Every name that an instance may hold."""

    def read(self, instance: object, *, received_at: datetime) -> Instance:
        """Check and normalise one instance.

        Args:
            instance: as parsed from JSON.
            received_at: when it was received, aware; what `available_at` defaults to and may not pass.

        Raises:
            RowProblem: lists everything that is wrong.
        """
        if type(instance) is not dict:
            raise RowProblem([{"loc": [], "msg": "must be an object of fields by name"}])
        errors: list[FieldError] = []
        get = instance.get
        payload = {}
        for name, required, parse in self._fields:
            value = get(name)
            if value is not None:
                try:
                    value = parse(value)
                except ValueError as error:
                    errors.append({"loc": [name], "msg": str(error)})
                    continue
            if value is not None:
                payload[name] = value
            elif required:
                errors.append({"loc": [name], "msg": "is required"})
        key = self._required(errors, instance, self._key, read_key)
        time = self._required(errors, instance, self._time, read_moment)
        if time is not None and self._max_ahead is not None and time - received_at > self._max_ahead:
            errors.append({"loc": [self._time], "msg": "lies in the future; an event can be sent once it has happened"})
        available_at = received_at
        if (given := get(AVAILABLE_AT)) is not None:
            try:
                available_at = read_available_at(given, received_at)
            except ValueError as error:
                errors.append({"loc": [AVAILABLE_AT], "msg": str(error)})
        if not instance.keys() <= self.known:
            errors += [
                {"loc": [shown_name(name)], "msg": "is no field of this pipeline"}
                for name in sorted(map(str, instance.keys() - self.known))[:MAX_PROBLEMS]
            ]
        if errors:
            raise RowProblem(errors[:MAX_PROBLEMS])
        assert key is not None
        assert time is not None
        return Instance(key, time, available_at, payload)

    @staticmethod
    def _required(errors: list[FieldError], instance: dict[str, Any], name: str, parse: Parse) -> Any:
        value = instance.get(name)
        if value is None:
            errors.append({"loc": [name], "msg": "is required"})
            return None
        try:
            return parse(value)
        except ValueError as error:
            errors.append({"loc": [name], "msg": str(error)})
            return None


def epoch_us(moment: datetime) -> int:
    """Epoch microseconds UTC of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def from_epoch_us(value: int) -> datetime:
    """The inverse of `epoch_us`."""
    return _EPOCH + value * _MICROSECOND


def read_key(value: object) -> str:
    """An example's id: a text of 1 to 256 characters.

    Raises:
        ValueError: anything else.
    """
    if type(value) is not str:
        raise ValueError("must be a text")
    if not 0 < len(value) <= MAX_KEY_CHARS:
        raise ValueError(f"must have 1 to {MAX_KEY_CHARS} characters")
    return _storable(value)


def read_moment(value: object) -> datetime:
    """ISO 8601 with an offset, or epoch microseconds as a whole number; as UTC.

    Raises:
        ValueError: anything else, or a moment before 1900 or after 2099.
    """
    if type(value) is int:
        if not _FIRST_US <= value < _LAST_US:
            raise ValueError("must be epoch microseconds between the years 1900 and 2099")
        return _EPOCH + value * _MICROSECOND
    if type(value) is not str:
        raise ValueError("must be a time: ISO 8601 with an offset, or epoch microseconds as a whole number")
    try:
        moment = datetime.fromisoformat(value) if len(value) <= 64 else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError("must be a time: ISO 8601 with an offset, such as 2013-01-31T17:00:00-05:00")
    if moment.tzinfo is None:
        raise ValueError("must say its offset from UTC, such as 2013-01-31T17:00:00-05:00 or ...Z")
    if not FIRST <= moment < LAST:
        raise ValueError("must lie between the years 1900 and 2099")
    return moment.astimezone(UTC)


def read_available_at(value: object, received_at: datetime) -> datetime:
    """When the sender knew something. Up to `CLOCK_SKEW` after the receipt counts as the receipt.

    Raises:
        ValueError: no moment, or one that is too far after the receipt.
    """
    return min(read_stated_at(value, received_at), received_at)


def read_stated_at(value: object, received_at: datetime) -> datetime:
    """As `read_available_at`, but as the sender's clock has it: for what is ordered by what was stated, whenever it comes.

    Raises:
        ValueError: no moment, or one that is too far after the receipt.
    """
    moment = read_moment(value)
    if moment - received_at > CLOCK_SKEW:
        raise ValueError("must not be later than the receipt")
    return moment


def read_number(value: object) -> float:
    """A finite number.

    Raises:
        ValueError: anything else (a text, true or false, NaN, an infinity).
    """
    if type(value) is not float:
        if type(value) is not int:
            raise ValueError("must be a number")
        try:
            value = float(value)
        except OverflowError:
            raise ValueError("must be a finite number; it is too large") from None
    if not math.isfinite(value):
        raise ValueError("must be a finite number; leave it out or send null when it is missing")
    return value + 0.0  # -0.0 and 0.0 are one content


def read_category(value: object) -> str | None:
    """A text of at most 4,096 characters; the empty text is missing.

    Raises:
        ValueError: anything else.
    """
    if type(value) is not str:
        raise ValueError("must be a text")
    return _bounded_text(value) or None


def read_scalar(value: object) -> Any:
    """What entity and columns may hold: a text, a finite number, true or false.

    Raises:
        ValueError: anything else.
    """
    if type(value) is str:
        return _bounded_text(value)
    if type(value) is bool:
        return value
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) in (int, float):
        return read_number(value)
    raise ValueError("must be a text, a number, true or false")


def shown_name(name: str) -> str:
    """A field name as it may stand in an answer and in a row of the registry: short, and without control characters."""
    name = name[:64]
    return name if name.isprintable() else ascii(name)[1:-1]


def _feature_parse(feature: Feature) -> Parse:
    match feature:
        case NumberFeature():
            return read_number
        case CategoryFeature():
            return read_category
        case TimestampFeature():
            return lambda value: epoch_us(read_moment(value))
        case VectorFeature():
            return _vector_parse(feature.length)
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def _vector_parse(length: int) -> Parse:
    def parse(value: object) -> list[float]:
        if type(value) is not list or len(value) != length:
            raise ValueError(f"must be a list of {length} numbers")
        try:
            return [read_number(number) for number in value]
        except ValueError:
            raise ValueError(f"must be a list of {length} finite numbers, none missing") from None

    return parse


def _bounded_text(value: str) -> str:
    if len(value) > MAX_VALUE_CHARS:
        raise ValueError(f"must have at most {MAX_VALUE_CHARS} characters")
    return _storable(value)


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode (it holds a lone surrogate)") from None
    return value
