"""Rows out of Parquet files and Arrow streams, with bounds on what a small body may unpack to.

A column's type is wrong for all rows or for none, so it is an error of the whole file, told once, and not of each row.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.data.arrow_bounds import check_stream
from services.data.config import DataSettings
from services.data.rows import LABEL_TIME
from shared.errors import FieldError, Invalid, Malformed, RelevoError, TooLarge
from shared.instances import AVAILABLE_AT, MAX_PROBLEMS, MAX_VALUE_CHARS, shown_name
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, VectorFeature

BATCH_ROWS = 8192
_MAX_TEXT_BYTES = 4 * MAX_VALUE_CHARS
_VALUE_BYTES = 16
"""What one decoded value is reckoned to take."""


def parquet_rows(body: bytes, spec: PipelineSpec, limits: DataSettings) -> Iterator[list[object]]:
    """The rows of a Parquet file.

    Raises:
        Malformed, Invalid, TooLarge: as `services.data.decode.decode`.
    """
    try:
        # Texts stay dictionary-encoded until their length was looked at: a dictionary may repeat one huge value in every row.
        schema = pq.read_schema(pa.BufferReader(body))
        texts = [field.name for field in schema if _is_text(field.type)]
        file = pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
        meta = file.metadata
        _check_size(meta.num_rows, _claimed_values(meta) * _VALUE_BYTES, limits)
        yield from _chunks(file.iter_batches(batch_size=BATCH_ROWS), file.schema_arrow, spec, limits)
    except RelevoError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise Malformed(f"The body is not a readable Parquet file ({type(error).__name__}).") from None


def arrow_rows(body: bytes, spec: PipelineSpec, limits: DataSettings) -> Iterator[list[object]]:
    """The rows of an Arrow IPC stream without body compression.

    Raises:
        Malformed, Invalid, TooLarge: as `services.data.decode.decode`.
    """
    try:
        check_stream(body)
        with pa.ipc.open_stream(pa.BufferReader(body)) as stream:
            yield from _chunks(stream, stream.schema, spec, limits)
    except RelevoError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise Malformed(f"The body is not a readable Arrow stream ({type(error).__name__}).") from None


def _chunks(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, spec: PipelineSpec, limits: DataSettings
) -> Iterator[list[object]]:
    targets = _targets(schema, spec)
    rows_seen = 0
    chunk: list[object] = []
    for large in batches:
        for batch in _slices(large):
            rows_seen += batch.num_rows
            _check_size(rows_seen, 0, limits)
            columns = [_plain(batch.column(i), target).to_pylist() for i, target in enumerate(targets)]
            chunk += [dict(zip(schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
            while len(chunk) >= limits.chunk_rows:
                yield chunk[: limits.chunk_rows]
                chunk = chunk[limits.chunk_rows :]
    if chunk:
        yield chunk


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _targets(schema: pa.Schema, spec: PipelineSpec) -> list[pa.DataType]:
    """The type each column is cast to before its values become plain JSON ones.

    Raises:
        Invalid: columns that are unknown, missing, repeated, or of a type that cannot hold their field.
    """
    wanted: dict[str, str] = dict.fromkeys((spec.entity or spec.key, *spec.columns), "scalar")
    for name, feature in spec.input_features.items():
        wanted[name] = (
            "number" if isinstance(feature, NumberFeature)
            else "text" if isinstance(feature, CategoryFeature)
            else "vector" if isinstance(feature, VectorFeature)
            else "time"
        )  # fmt: skip
    wanted |= {spec.key: "text", spec.time: "time", AVAILABLE_AT: "time", LABEL_TIME: "time", spec.label.name: "label"}
    repeated = {name for name, count in Counter(schema.names).items() if count > 1}
    errors: list[FieldError] = []
    targets = []
    for field in schema:
        if field.name not in wanted:
            errors.append({"loc": [shown_name(field.name)], "msg": "is no field of this pipeline"})
        elif field.name in repeated:
            errors.append({"loc": [field.name], "msg": "stands in the file twice"})
        elif (target := _target(field.type, wanted[field.name])) is None:
            errors.append({"loc": [field.name], "msg": _EXPECTED[wanted[field.name]]})
        else:
            targets.append(target)
    for name in (spec.key, spec.time):
        if name not in schema.names:
            errors.append({"loc": [name], "msg": "is required and is no column of the file"})
    if errors:
        first = errors[0]
        detail = f"The file does not fit the pipeline: column {first['loc'][0]} {first['msg']}."
        raise Invalid(detail, errors=errors[:MAX_PROBLEMS])
    return targets


_EXPECTED = {
    "text": "must be of type string",
    "number": "must be of a number type",
    "label": "must be of a number type or bool",
    "time": "must be a timestamp with a time zone, int64 epoch microseconds, or ISO 8601 text",
    "vector": "must be a list of numbers",
    "scalar": "must be of a text, number or bool type",
}


def _target(kind: pa.DataType, wanted: str) -> pa.DataType | None:
    """What a column of this type is cast to; None when it cannot hold what is wanted."""
    for fits, uses, target in _CASTS:
        if wanted in uses and fits(kind):
            return target or kind
    return None


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_any_text(kind: pa.DataType) -> bool:
    return _is_text(kind) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def _is_inexact(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_number_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


_NUMERIC = ("number", "label", "scalar")
_CASTS: tuple[tuple[Callable[[pa.DataType], bool], tuple[str, ...], pa.DataType | None], ...] = (
    (pa.types.is_null, tuple(_EXPECTED), None),
    (_is_any_text, ("text", "time", "scalar"), pa.string()),
    (lambda kind: pa.types.is_timestamp(kind) and bool(kind.tz), ("time",), pa.timestamp("us", "UTC")),
    (pa.types.is_integer, ("time",), pa.int64()),
    (pa.types.is_boolean, ("label", "scalar"), None),
    (pa.types.is_integer, _NUMERIC, None),
    (_is_inexact, _NUMERIC, pa.float64()),
    (_is_number_list, ("vector",), pa.list_(pa.float64())),
)
"""What a type is cast to (None: left as it is) where it may stand for what is wanted."""


def _plain(column: pa.Array, target: pa.DataType) -> pa.Array:
    """The column as values that JSON has, too: text, numbers, epoch microseconds, lists of numbers."""
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if _is_text(texts.type) and len(texts) and (pc.max(pc.binary_length(texts)).as_py() or 0) > _MAX_TEXT_BYTES:
        raise Invalid(f"The file holds a text of more than {MAX_VALUE_CHARS} characters; no field may be that long.")
    if column.type != target:
        column = column.cast(target, safe=False)
    return column.cast(pa.int64()) if pa.types.is_timestamp(target) else column


def _claimed_values(meta: Any) -> int:
    groups = (meta.row_group(i) for i in range(meta.num_row_groups))
    return sum(group.column(i).num_values for group in groups for i in range(group.num_columns))


def _check_size(rows: int, decoded_bytes: int, limits: DataSettings) -> None:
    if rows > limits.upload_max_rows:
        raise TooLarge(f"The upload has more than {limits.upload_max_rows} rows; send it in parts.")
    if decoded_bytes > limits.upload_decoded_bytes:
        raise TooLarge(f"The upload unpacks to more than {limits.upload_decoded_bytes} bytes; send it in parts.")
