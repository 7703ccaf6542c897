"""What is in each column of a split, computed from its file one column at a time."""

import heapq
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TOP_VALUES = 20
_SHOWN_CHARS = 100


def split_statistics(path: Path) -> dict[str, Any]:
    """Statistics of every column but the key.

    Returns:
        `{"rows": n, "columns": {name: {...}}}`; every column has `type`, `count` (given) and `missing`. Numbers: mean, std
        (population), min, max, quantiles {"0.5": x}; categories: distinct, top [[value, count]]; times: min, max (ISO 8601);
        vectors: length and mean and std over all their numbers. What cannot be computed (no value) is null.
    """
    file = pq.ParquetFile(path)
    columns = {
        field.name: column_statistics(file.read([field.name]).column(0))
        for field in file.schema_arrow
        if field.name != "key"
    }
    return {"rows": file.metadata.num_rows, "columns": columns}


def column_statistics(column: pa.ChunkedArray) -> dict[str, Any]:
    """Statistics of one column, as `split_statistics` has them."""
    kind = column.type
    result: dict[str, Any] = {"count": len(column) - column.null_count, "missing": column.null_count}
    values = column.drop_null()
    if pa.types.is_string(kind):
        return {"type": "category", **result, **_categories(values)}
    if pa.types.is_timestamp(kind):
        low, high = pc.min_max(values.cast(pa.int64())).values()
        return {"type": "timestamp", **result, "min": _iso(low.as_py()), "max": _iso(high.as_py())}
    if pa.types.is_list(kind):
        length = pc.max(pc.list_value_length(values)).as_py()
        numbers = _numbers(pc.list_flatten(values).to_numpy())
        return {"type": "vector", **result, "length": length, "mean": numbers["mean"], "std": numbers["std"]}
    return {"type": "number", **result, **_numbers(values.to_numpy())}


def _numbers(values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {"mean": None, "std": None, "min": None, "max": None, "quantiles": {}}
    # Scaled by a power of two first, which is exact, so that squares and differences of huge values do not overflow.
    scale = math.ldexp(1.0, math.frexp(float(np.abs(values).max()))[1] - 1)
    scaled = values / scale
    quantiles = np.quantile(scaled, QUANTILES)
    return {
        "mean": float(scaled.mean()) * scale,
        "std": _finite(float(scaled.std()) * scale),
        "min": float(values.min()),
        "max": float(values.max()),
        "quantiles": {str(q): float(value) * scale for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _categories(values: pa.ChunkedArray) -> dict[str, Any]:
    counts = pc.value_counts(values)
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    top = heapq.nsmallest(TOP_VALUES, pairs, key=lambda pair: (-pair[1], pair[0]))
    return {"distinct": len(counts), "top": [[value[:_SHOWN_CHARS], count] for value, count in top]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _iso(value: int | None) -> str | None:
    return None if value is None else datetime.fromtimestamp(value / 1e6, UTC).isoformat(timespec="seconds")
