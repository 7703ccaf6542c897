"""Arrow columns as a model's named input tensors, by the version's signature: how stored rows reach the one graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.errors import Invalid

Feeds = dict[str, np.ndarray]
"""Input tensors by name, all with the same number of rows n."""


def feeds_of(table: pa.Table, inputs: Sequence[Mapping[str, Any]]) -> Feeds:
    """The input tensors of every input of a signature.

    Args:
        table: n rows; a column for each input, named as it.
        inputs: `signature["inputs"]` of a model version: `{"name", "kind", "length"?}` each.

    Returns:
        category: object [n] of str, '' where null; number: float32 [n], NaN where null; timestamp: int64 [n], epoch
        microseconds UTC; vector: float32 [n, length].

    Raises:
        Invalid: a column is missing, has a type that does not fit, or holds nulls where every value must be given.
    """
    return {str(given["name"]): _feed(table, given) for given in inputs}


def times_us(table: pa.Table, column: str = "time") -> np.ndarray:
    """A column of moments as int64 [n] epoch microseconds UTC.

    Raises:
        Invalid: the column is missing, is not a time, or holds nulls.
    """
    return _timestamps(column, _column(table, column))


def labels_of(table: pa.Table) -> np.ndarray:
    """The column `label` as float64 [n].

    Raises:
        Invalid: the column is missing, or holds labels that are null, NaN or infinite.
    """
    labels: np.ndarray = _cast("label", _column(table, "label"), pa.float64()).to_numpy(zero_copy_only=False)
    bad = int(np.count_nonzero(~np.isfinite(labels)))
    if bad:
        raise Invalid(f"{bad} of {len(labels)} labels are missing, NaN or infinite; a dataset holds none of those.")
    return labels


def _feed(table: pa.Table, given: Mapping[str, Any]) -> np.ndarray:
    name = str(given["name"])
    column = _column(table, name)
    match given["kind"]:
        case "category":
            return _texts(name, column)
        case "number":
            return _float32(_cast(name, column, pa.float64()).to_numpy(zero_copy_only=False))
        case "timestamp":
            return _timestamps(name, column)
        case "vector":
            return _vectors(name, int(given["length"]), column)
        case kind:
            raise Invalid(f"The input {name} is of the kind {kind!r}, which this release does not know.")


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise Invalid(f"The rows have no column {name}; they have {', '.join(table.column_names)}.")
    return table.column(name)


def _timestamps(name: str, column: pa.ChunkedArray) -> np.ndarray:
    if column.null_count:
        raise Invalid(f"The column {name} has {column.null_count} nulls; every time must be given.")
    if pa.types.is_timestamp(column.type):
        column = _cast(name, column, pa.timestamp("us", tz=column.type.tz))
    times: np.ndarray = _cast(name, column, pa.int64()).to_numpy(zero_copy_only=False)
    return times


def _texts(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Each distinct text becomes one Python object: a category has few, whatever the number of rows."""
    if not pa.types.is_dictionary(column.type):
        column = _cast(name, column, pa.string()).dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no chunk
        return np.empty(0, dtype=object)
    known = _cast(name, pa.chunked_array([encoded.dictionary]), pa.string()).to_pylist()
    texts = np.array([*(text or "" for text in known), ""], dtype=object)
    found: np.ndarray = texts[pc.fill_null(encoded.indices.cast(pa.int64()), len(known)).to_numpy()]
    return found


def _vectors(name: str, length: int, column: pa.ChunkedArray) -> np.ndarray:
    lists = _cast(name, column, pa.list_(pa.float64())).combine_chunks()
    if lists.null_count or not pc.all(pc.equal(pc.list_value_length(lists), length), min_count=0).as_py():
        raise Invalid(f"The column {name} must hold lists of exactly {length} numbers.")
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        raise Invalid(f"The column {name} holds numbers that are missing, NaN or infinite.")
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
        raise Invalid(f"The column {name} is {column.type}, not {wanted}: {reason}.") from None
