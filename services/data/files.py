"""Writing a dataset's two Parquet files so that the same rows give the same bytes, and naming rows whatever wrote them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.data.manifest import FILE_OF, Split, SplitEntry
from services.data.split import Window, Windows
from shared.copy_rows import arrow_type
from shared.manifest import DatasetFile
from shared.spec import PipelineSpec, TimestampFeature

ROW_GROUP_ROWS = 65_536
TIME = pa.timestamp("us", "UTC")
WRITER = {
    "compression": "zstd",
    "compression_level": 3,
    "version": "2.6",
    "data_page_version": "1.0",
    "use_dictionary": True,
    "write_statistics": True,
}
"""Fixed, as every one of these changes the bytes."""


@dataclass(frozen=True)
class WrittenSplit:
    """One split on disk."""

    path: Path
    entry: SplitEntry


def dataset_schema(spec: PipelineSpec) -> pa.Schema:
    """The columns of a dataset: key, time, every input feature raw in the spec's order, label."""
    features = {
        name: TIME if isinstance(feature, TimestampFeature) else arrow_type(feature)
        for name, feature in spec.input_features.items()
        if name != "time"
    }
    return pa.schema([("key", pa.string()), ("time", TIME), *features.items(), ("label", pa.float64())])


def write_splits(
    batches: Iterator[pa.RecordBatch], spec: PipelineSpec, windows: Windows, folder: Path
) -> dict[Split, WrittenSplit]:
    """Write examples sorted by (time, key) into train.parquet and test.parquet; the gap's rows go nowhere.

    Args:
        batches: as `services.data.engine` yields them, times as epoch microseconds.
    """
    schema = dataset_schema(spec)
    writers: dict[Split, _SplitWriter] = {
        "train": _SplitWriter(folder / FILE_OF["train"], schema, windows.train),
        "test": _SplitWriter(folder / FILE_OF["test"], schema, windows.test),
    }
    for batch in batches:
        table = _conform(batch, schema, spec)
        for writer in writers.values():
            writer.write(table)
    return {name: writer.close() for name, writer in writers.items()}


def _conform(batch: pa.RecordBatch, schema: pa.Schema, spec: PipelineSpec) -> pa.Table:
    table = pa.Table.from_batches([batch])
    columns = [table.column("time" if field.name == spec.time else field.name).cast(field.type) for field in schema]
    return pa.table(columns, schema=schema)


class _SplitWriter:
    """Gathers rows of one window and writes them in row groups of a fixed size, however they come."""

    def __init__(self, path: Path, schema: pa.Schema, window: Window) -> None:
        self._path, self._schema, self._window = path, schema, window
        self._writer = pq.ParquetWriter(path, schema, **WRITER)
        self._waiting = schema.empty_table()
        self._rows = 0
        self._digest = _RowsDigest(schema)

    def write(self, table: pa.Table) -> None:
        time = table.column("time")
        start, end = (pa.scalar(moment, TIME) for moment in (self._window.start, self._window.end))
        inside = pc.and_(pc.greater_equal(time, start), pc.less(time, end))
        self._waiting = pa.concat_tables([self._waiting, table.filter(inside)])
        while self._waiting.num_rows >= ROW_GROUP_ROWS:
            self._write_group(ROW_GROUP_ROWS)

    def close(self) -> WrittenSplit:
        if self._waiting.num_rows:
            self._write_group(self._waiting.num_rows)
        self._writer.close()
        with self._path.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        file = DatasetFile(sha256, self._path.stat().st_size, self._rows)
        return WrittenSplit(self._path, SplitEntry(file, self._window, self._digest.hexdigest()))

    def _write_group(self, rows: int) -> None:
        group = self._waiting.slice(0, rows).combine_chunks()
        self._waiting = self._waiting.slice(rows).combine_chunks()
        self._writer.write_table(group, row_group_size=rows)
        self._digest.update(group)
        self._rows += rows


class _RowsDigest:
    """sha256 over the values alone, so that two libraries that write the same rows differently can be told to agree.

    Per row group of `ROW_GROUP_ROWS` and column: the null flags, then the values with nulls as zeros or empty; texts and lists as
    their lengths and what they hold.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._hash = hashlib.sha256("\n".join(f"{field.name} {field.type}" for field in schema).encode())

    def update(self, group: pa.Table) -> None:
        for column in group.columns:
            self._add(column.combine_chunks())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _add(self, array: pa.Array) -> None:
        self._hash.update(array.is_null().to_numpy(zero_copy_only=False).tobytes())
        kind = array.type
        if pa.types.is_list(kind):
            self._hash.update(_plain(pc.fill_null(pc.list_value_length(array), 0)))
            self._hash.update(_plain(array.flatten()))
        elif pa.types.is_string(kind):
            filled = pc.fill_null(array, "")
            self._hash.update(_plain(pc.binary_length(filled)))
            self._hash.update("".join(filled.to_pylist()).encode())
        else:
            self._hash.update(_plain(pc.fill_null(array.cast(pa.int64()) if pa.types.is_timestamp(kind) else array, 0)))


def _plain(numbers: pa.Array) -> bytes:
    values: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    return values.astype(values.dtype.newbyteorder("<")).tobytes()
