"""Rows out of Parquet files and Arrow streams."""

import contextlib
from collections.abc import Generator

from services.data.config import DataSettings
from services.data.rows import LABEL_TIME
from shared.spec import PipelineSpec
from shared.uploads import Kind, instance_uses, unpacked


def parquet_rows(body: bytes, spec: PipelineSpec, limits: DataSettings) -> Generator[list[object], None, None]:
    """The rows of a Parquet file, in chunks.

    Raises:
        Malformed, Invalid, TooLarge: as `services.data.decode.decode`.
    """
    return _rows("parquet", body, spec, limits)


def arrow_rows(body: bytes, spec: PipelineSpec, limits: DataSettings) -> Generator[list[object], None, None]:
    """The rows of an Arrow IPC stream, in chunks.

    Raises:
        Malformed, Invalid, TooLarge: as `services.data.decode.decode`.
    """
    return _rows("arrow", body, spec, limits)


def _rows(kind: Kind, body: bytes, spec: PipelineSpec, limits: DataSettings) -> Generator[list[object], None, None]:
    batches = unpacked(
        kind,
        body,
        spec,
        instance_uses(spec) | {LABEL_TIME: "time", spec.label.name: "label"},
        required=[spec.key, spec.time],
        max_rows=limits.upload_max_rows,
        max_bytes=limits.upload_decoded_bytes,
    )
    chunk: list[object] = []
    with contextlib.closing(batches):
        for batch in batches:
            columns = [column.to_pylist() for column in batch.columns]
            chunk += [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
            while len(chunk) >= limits.chunk_rows:
                yield chunk[: limits.chunk_rows]
                chunk = chunk[limits.chunk_rows :]
    if chunk:
        yield chunk
