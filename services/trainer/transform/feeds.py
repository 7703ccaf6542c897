"""Arrow columns as the graph's input tensors, and the label and time columns as arrays."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.errors import Invalid
from shared.spec import CategoryFeature, Feature, NumberFeature, PipelineSpec, TimestampFeature, VectorFeature

Feeds = dict[str, np.ndarray]
"""Input tensors by feature name, all with the same number of rows."""
MAX_LABEL = 1e30
"""Larger labels, and their scores, would come near the end of float32."""
InputKind = Literal["category", "number", "timestamp", "vector"]


def input_kind(feature: Feature) -> InputKind:
    """The kind of input tensor a feature has.

    Raises:
        TypeError: a cross, which has no input of its own.
    """
    match feature:
        case CategoryFeature():
            return "category"
        case NumberFeature():
            return "number"
        case TimestampFeature():
            return "timestamp"
        case VectorFeature():
            return "vector"
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def feeds_of(table: pa.Table, spec: PipelineSpec) -> Feeds:
    """The input tensors of every input feature.

    Returns:
        category: object [n] of str, '' where null; number: float32 [n], NaN where null; timestamp: int64 [n], epoch
        microseconds UTC; vector: float32 [n, length].

    Raises:
        Invalid: a column is missing, has a type that does not fit, or holds nulls where every value must be given.
    """
    return {name: _feed(name, feature, _column(table, name)) for name, feature in spec.input_features.items()}


def read_labels(table: pa.Table, spec: PipelineSpec) -> np.ndarray:
    """The column `label` as float64 [n].

    Raises:
        Invalid: a label is null, NaN, infinite or beyond float32, in which scores are; or, for a binary task, neither
            0 nor 1.
    """
    labels = _cast("label", _column(table, "label"), pa.float64()).to_numpy(zero_copy_only=False)
    bad = int(np.count_nonzero(~np.isfinite(labels)))
    if bad:
        raise Invalid(
            f"{bad} of {len(labels)} training labels are missing, NaN or infinite; "
            "a training table holds only rows with a finite label."
        )
    bad = int(np.count_nonzero(np.abs(labels) > MAX_LABEL))
    if bad:
        raise Invalid(f"{bad} of {len(labels)} training labels are beyond ±{MAX_LABEL:g}; use a larger unit.")
    if spec.task == "binary":
        bad = int(np.count_nonzero((labels != 0) & (labels != 1)))
        if bad:
            raise Invalid(f"{bad} of {len(labels)} training labels are neither 0 nor 1, which task binary needs.")
    return labels


def read_times(table: pa.Table) -> np.ndarray:
    """The event times, column `time`, as int64 [n] epoch microseconds UTC.

    Raises:
        Invalid: the column is missing, is not a time, or holds nulls.
    """
    return _timestamps("time", _column(table, "time"))


def read_keys(table: pa.Table) -> np.ndarray:
    """The column `key` as object [n] of str.

    Raises:
        Invalid: the column is missing or is not text.
    """
    return _cast("key", _column(table, "key"), pa.string()).to_numpy(zero_copy_only=False).astype(object)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise Invalid(f"The training table has no column {name}; it has {', '.join(table.column_names)}.")
    return table.column(name)


def _feed(name: str, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
    match feature:
        case CategoryFeature():
            texts: np.ndarray = pc.fill_null(_cast(name, column, pa.string()), "").to_numpy(zero_copy_only=False)
            return texts.astype(object)
        case NumberFeature():
            return _float32(_cast(name, column, pa.float64()).to_numpy(zero_copy_only=False))
        case TimestampFeature():
            return _timestamps(name, column)
        case VectorFeature():
            return _vectors(name, feature.length, column)
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def _timestamps(name: str, column: pa.ChunkedArray) -> np.ndarray:
    if column.null_count:
        raise Invalid(
            f"The column {name} of the training table has {column.null_count} nulls; every time must be given."
        )
    if pa.types.is_timestamp(column.type):
        column = _cast(name, column, pa.timestamp("us", tz=column.type.tz))
    return _cast(name, column, pa.int64()).to_numpy(zero_copy_only=False)


def _vectors(name: str, length: int, column: pa.ChunkedArray) -> np.ndarray:
    lists = _cast(name, column, pa.list_(pa.float64())).combine_chunks()
    lengths = pc.list_value_length(lists)
    if lists.null_count or not pc.all(pc.equal(lengths, length), min_count=0).as_py():
        raise Invalid(f"The column {name} of the training table must hold lists of exactly {length} numbers.")
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        raise Invalid(f"The column {name} of the training table holds numbers that are missing, NaN or infinite.")
    return _float32(values).reshape(len(lists), length)


def _float32(values: np.ndarray) -> np.ndarray:
    """As serving casts them: what float32 cannot hold becomes infinite, which the graph clamps."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _cast(name: str, column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise Invalid(f"The column {name} of the training table is {column.type}, not {wanted}: {reason}.") from None
