"""The fitted statistics as ONNX nodes: named raw inputs to columns of numbers and columns of ids."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.ml.v4 as ml
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, Var, argument

from services.trainer.transform import calendar, hashing
from services.trainer.transform.fit import CategoryStatistics, NumberStatistics, Quantiles, Scaling, Statistics
from shared.spec import (
    CategoryFeature,
    CrossFeature,
    Feature,
    NumberFeature,
    PipelineSpec,
    TimestampFeature,
    VectorFeature,
)


@dataclass(frozen=True)
class IdColumn:
    """A column of whole numbers in 0 .. size - 1; `values` is int64 [n]."""

    name: str
    size: int
    values: Var


@dataclass(frozen=True)
class NumberColumns:
    """One or more columns of numbers; `values` is float32 [n, len(names)]."""

    names: tuple[str, ...]
    values: Var


def arguments(spec: PipelineSpec) -> dict[str, Var]:
    """The graph's inputs by feature name, in the spec's order, with the batch dimension left open."""
    return {name: argument(_input_type(feature)) for name, feature in spec.input_features.items()}


def columns(
    spec: PipelineSpec, fitted: Statistics, inputs: Mapping[str, Var]
) -> tuple[list[NumberColumns], list[IdColumn]]:
    """Every column of numbers (a number with its quantile and missing flag, the minute of the day, a vector) and every
    column of ids before `compact` (a category, the other calendar parts, a cross)."""
    numbers: list[NumberColumns] = []
    ids: list[IdColumn] = []
    for name, feature in spec.features.items():
        match feature:
            case NumberFeature():
                numbers += _number(name, feature, fitted.numbers[name], inputs[name])
            case CategoryFeature():
                ids.append(_category(name, feature, fitted.categories[name], inputs[name]))
            case TimestampFeature():
                local = calendar.local_seconds(inputs[name], feature.timezone)
                for part, value in calendar.calendar_parts(feature.calendar, local).items():
                    if part == "minute_of_day":
                        numbers.append(_minute(f"{name}.{part}", value))
                    else:
                        ids.append(IdColumn(f"{name}.{part}", calendar.PART_SIZES[part], value))
            case CrossFeature():
                text = hashing.joined([inputs[part] for part in feature.of])
                ids.append(IdColumn(name, feature.buckets, hashing.buckets(text, feature.buckets)))
            case VectorFeature():
                names = tuple(f"{name}.{index}" for index in range(feature.length))
                numbers.append(NumberColumns(names, _scaled(inputs[name], fitted.vectors[name])))
    return numbers, ids


def compact(column: IdColumn, new_ids: np.ndarray) -> IdColumn:
    """Replace each id i by new_ids[i] (int64 [size])."""
    return IdColumn(column.name, int(new_ids.max()) + 1, op.gather(op.const(new_ids), column.values))


def concatenated(columns: list[Var], batch_like: Var, dtype: type[np.generic]) -> Var:
    """Columns [n, ...] side by side; [n, 0] when there are none."""
    if columns:
        return op.concat(columns, axis=1) if len(columns) > 1 else columns[0]
    rows = op.shape(batch_like, start=0, end=1)
    none = op.concat([rows, op.const(np.array([0], np.int64))], axis=0)
    return op.constant_of_shape(none, value=np.array([0], dtype))


def as_column(values: Var) -> Var:
    """[n] to [n, 1]."""
    return op.unsqueeze(values, op.const(np.array([1], np.int64)))


def _input_type(feature: Feature) -> Tensor:
    match feature:
        case CategoryFeature():
            return Tensor(np.str_, ("batch",))
        case TimestampFeature():
            return Tensor(np.int64, ("batch",))
        case VectorFeature():
            return Tensor(np.float32, ("batch", feature.length))
        case _:
            return Tensor(np.float32, ("batch",))


def _category(name: str, feature: CategoryFeature, fitted: CategoryStatistics, text: Var) -> IdColumn:
    """Ids: 0 for the missing value, then the vocabulary, then the out-of-vocabulary buckets."""
    known = len(fitted.vocabulary) + 1
    ids = ml.label_encoder(
        text, keys_strings=["", *fitted.vocabulary], values_int64s=list(range(known)), default_int64=known
    )
    if feature.oov_buckets > 1:
        bucket = op.add(hashing.buckets(text, feature.oov_buckets), op.const(np.int64(known)))
        ids = op.where(op.less(ids, op.const(np.int64(known))), ids, bucket)
    return IdColumn(name, known + feature.oov_buckets, ids)


def _number(name: str, feature: NumberFeature, fitted: NumberStatistics, value: Var) -> list[NumberColumns]:
    missing = op.isnan(value)
    filled = op.where(missing, op.const(np.float32(fitted.fill)), value)
    shaped = filled
    if feature.transform == "log1p":
        one = op.const(np.float32(1))
        shaped = op.mul(op.sign(filled), op.log(op.add(one, op.abs(filled))))
    columns = [NumberColumns((name,), as_column(_scaled(shaped, fitted.scaling)))]
    if fitted.quantiles is not None:
        columns.append(NumberColumns((f"{name}.quantile",), _quantile(filled, fitted.quantiles)))
    if fitted.has_missing:
        columns.append(NumberColumns((f"{name}.missing",), as_column(op.cast(missing, to=np.float32))))
    return columns


def _scaled(value: Var, scaling: Scaling) -> Var:
    """The clamp comes last: it also catches an infinite input. Where the factor is 0, infinity times 0 is avoided."""
    largest = op.const(np.float32(np.finfo(np.float32).max))
    bounded = op.clip(value, op.neg(largest), largest)
    scaled = op.mul(op.sub(bounded, op.const(scaling.center)), op.const(scaling.factor))
    return op.max([op.min([scaled, op.const(scaling.high)]), op.const(scaling.low)])


def _quantile(value: Var, quantiles: Quantiles) -> Var:
    """float32 [n] to [n, 1]: the sum of each segment's share, which saturates at 0 and 1."""
    passed = op.mul(op.sub(as_column(value), op.const(quantiles.start)), op.const(quantiles.slope))
    shares = op.clip(passed, op.const(np.float32(0)), op.const(np.float32(1)))
    return op.matmul(shares, op.const(quantiles.rise[:, None]))


def _minute(name: str, minute: Var) -> NumberColumns:
    """The minute of the day as sine and cosine, and as a line from -1 to 1."""
    day_share = op.div(op.cast(as_column(minute), to=np.float32), op.const(np.float32(1440)))
    angle = op.mul(day_share, op.const(np.float32(2 * math.pi)))
    line = op.sub(op.mul(day_share, op.const(np.float32(2))), op.const(np.float32(1)))
    return NumberColumns(
        (f"{name}.sin", f"{name}.cos", f"{name}.line"), op.concat([op.sin(angle), op.cos(angle), line], axis=1)
    )
