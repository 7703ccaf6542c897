"""Rows made of a request's tensors: what `/predict` reads from an object by name comes as a column by name here, by the same rules.

| field | datatypes | missing |
|---|---|---|
| category | BYTES | the empty text, null |
| number | FP16, FP32, FP64, whole numbers | NaN, null |
| timestamp, the event time, available_at | whole numbers (epoch microseconds UTC) | - |
| vector | FP16, FP32, FP64, whole numbers | - |
| key | BYTES | - |
| entity, columns | any | NaN, null |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import orjson

from services.serving.oip.tensors import BYTES, Tensor, wrong
from services.serving.rows import Row, RowCodec
from shared.errors import FieldError, Invalid
from shared.instances import (
    AVAILABLE_AT,
    FIRST,
    LAST,
    epoch_us,
    from_epoch_us,
    read_available_at,
    read_category,
    read_key,
    read_moment,
    read_scalar,
    shown_name,
)
from shared.spec import CategoryFeature, Feature, NumberFeature, TimestampFeature, VectorFeature

Column = Sequence[Any]
"""A value for each row, None where it is missing."""
Read = Callable[[Tensor], Column]

_FIRST_US, _LAST_US = epoch_us(FIRST), epoch_us(LAST)
_KNOWN: "WeakKeyDictionary[RowCodec, _Fields]" = WeakKeyDictionary()
MOST_NAMES = 20


@dataclass(frozen=True, slots=True)
class _Fields:
    """What a version takes beside key, time and `available_at`."""

    readers: Mapping[str, Read]
    required: Sequence[str]


def read_tensors(
    codec: RowCodec, tensors: Sequence[Tensor], *, received_us: int, request: str, max_rows: int
) -> list[Row]:
    """The rows of a request for the version that a codec is of.

    Args:
        tensors: at least one; their first dimensions are the rows.
        received_us: epoch microseconds; what `available_at` defaults to, and an event time that the model does not take.
        request: an id that no other request has; keys that are not given are made of it.
        max_rows: most rows.

    Raises:
        Invalid: names the input that is wrong, unknown or missing.
    """
    fields = _KNOWN.get(codec)
    if fields is None:
        fields = _KNOWN[codec] = _fields_of(codec)
    spec = codec.spec
    given = {tensor.name: tensor for tensor in tensors}
    if missing := [name for name in fields.required if name not in given]:
        errors: list[FieldError] = [{"loc": ["body", "inputs", name], "msg": "is required"} for name in missing]
        shown = ", ".join(missing[:MOST_NAMES])
        raise Invalid(f"The model needs inputs that were not sent: {shown}.", errors=errors[:MOST_NAMES])
    count = tensors[0].shape[0]
    if count > max_rows:
        raise wrong(tensors[0].name, f"has {count} rows; a request holds at most {max_rows}")
    columns: dict[str, Column] = {}
    for name, tensor in given.items():
        if tensor.shape[0] != count:
            raise wrong(name, f"has {tensor.shape[0]} rows, but {shown_name(tensors[0].name)} has {count}")
        read = fields.readers.get(name)
        if read is not None:
            columns[name] = read(tensor)
        elif name not in (spec.key, spec.time, AVAILABLE_AT) and name not in codec.ignored:
            takes = ", ".join([spec.key, spec.time, *fields.readers][:MOST_NAMES])
            raise wrong(name, f"is no input of this pipeline; it takes {takes}")
    keys = [f"{request}-{row}" for row in range(count)]
    if spec.key in given:
        keys = _each(given[spec.key], read_key, required=True)
    times = _moments(given[spec.time]) if spec.time in given else [received_us] * count
    available = [received_us] * count
    if AVAILABLE_AT in given:
        available = _available(given[AVAILABLE_AT], received_us)
    return codec.of_columns(keys, times, available, columns)


def _fields_of(codec: RowCodec) -> _Fields:
    spec = codec.spec
    readers: dict[str, Read] = {}
    required = [given.name for given in codec.signature.inputs if given.name == spec.time]
    for name, feature in spec.input_features.items():
        if name != spec.time:
            readers[name], needed = _read_of(feature)
            required += [name] if needed else []
    for extra in (spec.entity, *spec.columns):
        if extra and extra not in (spec.key, spec.time):
            readers.setdefault(extra, _scalars)
    return _Fields(readers, required)


def _read_of(feature: Feature) -> tuple[Read, bool]:
    """How a feature's tensor is read, and whether it must be there."""
    required = bool(getattr(feature, "required", False))
    match feature:
        case NumberFeature():
            return (lambda tensor: _numbers(tensor, required=required)), required
        case CategoryFeature():
            return (lambda tensor: _each(tensor, read_category, required=required)), required
        case TimestampFeature():
            return _moments, True
        case VectorFeature():
            return (lambda tensor: _vectors(tensor, feature.length)), True
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def _each(tensor: Tensor, parse: Callable[[Any], Any], *, required: bool = False) -> list[Any]:
    """Texts, each parsed."""
    if tensor.datatype != BYTES:
        raise wrong(tensor.name, f"is {tensor.datatype}; send it as BYTES: it is a text")
    _one_a_row(tensor)
    return _parsed(tensor.name, tensor.values, parse, required=required)


def _parsed(name: str, values: Sequence[Any], parse: Callable[[Any], Any], *, required: bool = False) -> list[Any]:
    parsed: list[Any] = []
    for row, value in enumerate(values):
        try:
            taken = None if value is None else parse(value)
        except ValueError as error:
            raise wrong(name, f"{error} (row {row})") from None
        if taken is None and required:
            raise wrong(name, f"is required, and missing in row {row}")
        parsed.append(taken)
    return parsed


def _numbers(tensor: Tensor, *, required: bool) -> list[Any]:
    if not tensor.numbers:
        raise wrong(tensor.name, f"is {tensor.datatype}; send it as FP32: it is a number")
    _one_a_row(tensor)
    values = _finite(tensor, missing=True)
    if required and (missing := np.flatnonzero(np.isnan(values))).size:
        raise wrong(tensor.name, f"is required, and missing in row {missing[0]}")
    return _plain(values)


def _vectors(tensor: Tensor, length: int) -> Column:
    if not tensor.numbers or tensor.shape[1:] != (length,):
        raise wrong(
            tensor.name,
            f"is {tensor.datatype} {list(tensor.shape)}; send FP32 of the shape [rows, {length}]: it is a vector of that length",
        )
    return list(_finite(tensor, missing=False))


def _finite(tensor: Tensor, *, missing: bool) -> np.ndarray:
    """Floats of a tensor of numbers, aligned, in a copy; NaN only where it may mean missing."""
    values: np.ndarray = tensor.values
    if values.dtype.kind != "f":
        return values.astype(np.float64)
    if values.dtype.itemsize < np.dtype(np.float32).itemsize:
        values = values.astype(np.float32)
    values = values + 0.0  # -0.0 and 0.0 are one content
    if np.logical_and.reduce(np.isfinite(values), axis=None):
        return values
    bad = np.isinf(values) if missing else ~np.isfinite(values)
    if bad.any():
        row = np.argwhere(bad)[0][0]
        cure = "must be finite; NaN means missing" if missing else "must be finite numbers, none missing"
        raise wrong(tensor.name, f"{cure} (row {row})")
    return values


def _plain(values: np.ndarray) -> list[Any]:
    """Floats as Python has them, None for NaN. A float32 becomes the shortest decimal that means it: 0.1 stays 0.1."""
    plain: list[Any] = orjson.loads(orjson.dumps(values.ravel(), option=orjson.OPT_SERIALIZE_NUMPY))
    return plain


def _moments(tensor: Tensor) -> list[int]:
    values = _whole(tensor)
    if min(values) >= _FIRST_US and max(values) < _LAST_US:
        return values
    return _parsed(tensor.name, values, read_moment)


def _available(tensor: Tensor, received_us: int) -> list[int]:
    values = _whole(tensor)
    if min(values) >= _FIRST_US and max(values) <= received_us:
        return values
    received_at = from_epoch_us(received_us)
    return _parsed(tensor.name, values, lambda value: epoch_us(read_available_at(value, received_at)))


def _whole(tensor: Tensor) -> list[int]:
    if tensor.datatype == BYTES or tensor.values.dtype.kind not in "iu":
        raise wrong(tensor.name, f"is {tensor.datatype}; send it as INT64: it is a time in epoch microseconds")
    _one_a_row(tensor)
    values: list[int] = tensor.values.ravel().tolist()
    return values


def _scalars(tensor: Tensor) -> list[Any]:
    _one_a_row(tensor)
    if tensor.datatype == BYTES:
        values = tensor.values
    elif tensor.values.dtype.kind == "f":
        values = _plain(_finite(tensor, missing=True))
    else:
        values = tensor.values.ravel().tolist()
    return _parsed(tensor.name, values, read_scalar)


def _one_a_row(tensor: Tensor) -> None:
    if tensor.shape[1:] not in ((), (1,)):
        raise wrong(tensor.name, f"has the shape {list(tensor.shape)}; it is one value a row: send [{tensor.shape[0]}]")
