"""Stored instances out of PostgreSQL as Arrow: COPY sends CSV, Arrow parses it block by block, no Python object is made per row.

For whoever reads examples in bulk: dataset builds and offline predictions.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from shared.spec import CategoryFeature, Feature, NumberFeature, PipelineSpec, TimestampFeature, VectorFeature

BLOCK_BYTES = 32 * 2**20
"""Largest row that can be read, and about what is held in memory at once."""


def feature_columns(spec: PipelineSpec) -> dict[str, Feature]:
    """The input features that stand in payloads: all but a timestamp that is the event time itself."""
    return {name: feature for name, feature in spec.input_features.items() if name != spec.time}


def arrow_type(feature: Feature) -> pa.DataType:
    """The raw type of a feature's column in an extract; timestamps as epoch microseconds."""
    match feature:
        case CategoryFeature():
            return pa.string()
        case TimestampFeature():
            return pa.int64()
        case VectorFeature():
            return pa.list_(pa.float64())
        case _:
            return pa.float64()


def feature_values(document: str, features: Mapping[str, Feature]) -> sql.Composable:
    """One SQL expression a feature. A value of another type (from an earlier spec version) is missing."""
    parts = []
    for name, feature in features.items():
        value = sql.SQL("{}->{}").format(sql.SQL(document), sql.Literal(name))
        text = sql.SQL("{}->>{}").format(sql.SQL(document), sql.Literal(name))
        match feature:
            case CategoryFeature():
                parts.append(sql.SQL(", case jsonb_typeof({}) when 'string' then {} end").format(value, text))
            case NumberFeature():
                parts.append(sql.SQL(", case jsonb_typeof({}) when 'number' then ({})::float8 end").format(value, text))
            case TimestampFeature():
                # A moment is a whole number of at most 16 digits; what was stored as a number has a point, or is longer.
                whole = sql.SQL("case when {0} ~ '^-?[0-9]{{1,16}}$' then ({0})::int8 end").format(text)
                parts.append(sql.SQL(", case jsonb_typeof({}) when 'number' then {} end").format(value, whole))
            case VectorFeature(length=length):
                parts.append(
                    sql.SQL(
                        ", case when jsonb_typeof({0}) = 'array' then case jsonb_array_length({0}) when {1} then {2} end end"
                    ).format(value, sql.Literal(length), text)
                )
    return sql.Composed(parts)


def read_copy(blocks: Iterator[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a `copy ... to stdout (format csv)`.

    Args:
        blocks: what the connection sends.
        schema: names and types of the query's columns, in order.
    """
    source = io.BufferedReader(_Stream(blocks), 1 << 20)
    if not source.peek(1):
        return
    # A list is text in CSV, as JSON.
    texts = {field.name: pa.string() if pa.types.is_list(field.type) else field.type for field in schema}
    reader = pa.csv.open_csv(
        source,
        read_options=pa.csv.ReadOptions(column_names=schema.names, block_size=BLOCK_BYTES, use_threads=False),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        # PostgreSQL writes null as nothing and the empty text as "".
        convert_options=pa.csv.ConvertOptions(
            column_types=texts, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    for batch in reader:
        arrays = [_typed(batch.column(index), field.type) for index, field in enumerate(schema)]
        yield pa.record_batch(arrays, schema=schema)


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return column
    return pa.array([None if text is None else orjson.loads(text) for text in column.to_pylist()], kind)


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file to read."""

    def __init__(self, blocks: Iterator[Any]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken
