"""The fitted statistics as ONNX nodes: named raw inputs to columns of numbers and columns of ids."""

import math
from collections.abc import Mapping, Sequence
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
    numbers = _numbers(spec, fitted.numbers, inputs)
    ids: list[IdColumn] = []
    for name, feature in spec.features.items():
        match feature:
            case NumberFeature():
                pass  # all at once, above
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
                numbers.append(NumberColumns(names, _scaled(_bounded(inputs[name]), fitted.vectors[name])))
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


def _numbers(
    spec: PipelineSpec, fitted: Mapping[str, NumberStatistics], inputs: Mapping[str, Var]
) -> list[NumberColumns]:
    """All number features as one matrix: a node costs about a microsecond at every prediction, however wide its tensor is."""
    transforms = {
        name: feature.transform for name, feature in spec.features.items() if isinstance(feature, NumberFeature)
    }
    if not transforms:
        return []
    names = sorted(transforms, key=lambda name: transforms[name] == "log1p")  # stable: those with a logarithm come last
    given = op.concat([inputs[name] for name in names], axis=0)
    matrix = op.transpose(op.reshape(given, op.const(np.array([len(names), -1], np.int64))), perm=[1, 0])
    missing = op.isnan(matrix)
    fill = np.array([fitted[name].fill for name in names], np.float32)
    filled = _bounded(op.where(missing, op.const(fill), matrix))
    plain = sum(transform != "log1p" for transform in transforms.values())
    scaled = _scaled(_logarithms(filled, plain, len(names)), _joined([fitted[name].scaling for name in names]))
    columns = [NumberColumns(tuple(names), scaled)]
    ranked = [name for name in names if fitted[name].quantiles is not None]
    if ranked:
        shares = _quantiles(
            _picked(filled, names, ranked), [found for name in ranked if (found := fitted[name].quantiles)]
        )
        columns.append(NumberColumns(tuple(f"{name}.quantile" for name in ranked), shares))
    flagged = [name for name in names if fitted[name].has_missing]
    if flagged:
        flags = _picked(op.cast(missing, to=np.float32), names, flagged)
        columns.append(NumberColumns(tuple(f"{name}.missing" for name in flagged), flags))
    return columns


def _logarithms(values: Var, first: int, count: int) -> Var:
    """float32 [n, count] with sign(x) * log(1 + |x|) in the columns from `first` on."""
    if first == count:
        return values
    one = op.const(np.float32(1))
    if first == 0:
        return op.mul(op.sign(values), op.log(op.add(one, op.abs(values))))
    start, middle, end, axis = (op.const(np.array([value], np.int64)) for value in (0, first, count, 1))
    as_they_are, rest = op.slice(values, start, middle, axis), op.slice(values, middle, end, axis)
    return op.concat([as_they_are, _logarithms(rest, 0, count - first)], axis=1)


def _picked(values: Var, names: Sequence[str], wanted: Sequence[str]) -> Var:
    """The columns of [n, len(names)] that are wanted."""
    if len(wanted) == len(names):
        return values
    return op.gather(values, op.const(np.array([names.index(name) for name in wanted], np.int64)), axis=1)


def _joined(scalings: Sequence[Scaling]) -> Scaling:
    """Scalings of single columns as one of all of them."""
    return Scaling(
        center=np.array([scaling.center for scaling in scalings], np.float32),
        factor=np.array([scaling.factor for scaling in scalings], np.float32),
        low=np.array([scaling.low for scaling in scalings], np.float32),
        high=np.array([scaling.high for scaling in scalings], np.float32),
    )


def _bounded(value: Var) -> Var:
    """Infinities become the largest float32: infinity times 0 is avoided."""
    largest = np.finfo(np.float32).max
    return op.clip(value, op.const(np.float32(-largest)), op.const(np.float32(largest)))


def _scaled(value: Var, scaling: Scaling) -> Var:
    """float32 [n, k], bounded. The clamp comes last: it also catches what overflows."""
    scaled = op.mul(op.sub(value, op.const(scaling.center)), op.const(scaling.factor))
    return op.max([op.min([scaled, op.const(scaling.high)]), op.const(scaling.low)])


def _quantiles(values: Var, quantiles: Sequence[Quantiles]) -> Var:
    """float32 [n, k], bounded: in each column the sum of its segments' shares, which saturates at 0 and 1."""
    widest = max(len(column.start) for column in quantiles)

    def padded(parts: Sequence[np.ndarray]) -> Var:
        """[k, widest]; a segment of zeros adds nothing."""
        return op.const(np.stack([np.pad(part, (0, widest - len(part))) for part in parts]))

    last = op.const(np.array([2], np.int64))
    passed = op.sub(op.unsqueeze(values, last), padded([column.start for column in quantiles]))
    shares = op.clip(
        op.mul(passed, padded([column.slope for column in quantiles])),
        op.const(np.float32(0)),
        op.const(np.float32(1)),
    )
    return op.reduce_sum(op.mul(shares, padded([column.rise for column in quantiles])), last, keepdims=False)


def _minute(name: str, minute: Var) -> NumberColumns:
    """The minute of the day as sine and cosine, and as a line from -1 to 1."""
    day_share = op.div(op.cast(as_column(minute), to=np.float32), op.const(np.float32(1440)))
    angle = op.mul(day_share, op.const(np.float32(2 * math.pi)))
    line = op.sub(op.mul(day_share, op.const(np.float32(2))), op.const(np.float32(1)))
    return NumberColumns(
        (f"{name}.sin", f"{name}.cos", f"{name}.line"), op.concat([op.sin(angle), op.cos(angle), line], axis=1)
    )
