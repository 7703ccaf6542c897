"""Where the rows of a generation come from: a dataset, all keys seen, an upload. Each becomes Parquet files on disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.serving.config import ServingSettings
from services.serving.offline import columns
from services.serving.offline.generation import KEY, TIME
from shared.artifacts import ArtifactStore, Digest
from shared.errors import Invalid
from shared.manifest import TEST_FILE, TRAIN_FILE, read_files
from shared.spec import PipelineSpec
from shared.uploads import instance_uses, unpacked

SPLITS = {"train": TRAIN_FILE, "test": TEST_FILE}
READ_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows that lie on disk."""

    files: Sequence[Path]
    rows: int
    skipped: int = 0
    """Rows left out because they lack what the version needs."""


def of_dataset(store: ArtifactStore, digest: Digest, split: str | None, cache: Path) -> Prepared:
    """A dataset's files, or one of them.

    Raises:
        ArtifactMissing, ArtifactCorrupt, Unavailable: as the store does.
    """
    files = read_files(store, digest)
    wanted = [files[name] for part, name in SPLITS.items() if split in (None, part)]
    return Prepared([store.fetch(file.sha256, cache) for file in wanted], sum(file.rows for file in wanted))


def of_upload(
    body: bytes,
    spec: PipelineSpec,
    version: int,
    folder: Path,
    *,
    settings: ServingSettings,
    check: Callable[[], None],
) -> Prepared:
    """An uploaded Parquet file, unpacked in a process of its own and checked like instances are.

    Raises:
        Malformed, Invalid, TooLarge: with the column, and the row, that is wrong.
    """
    batches = unpacked(
        "parquet",
        body,
        spec,
        instance_uses(spec),
        required=[spec.key, spec.time],
        max_rows=settings.precompute_upload_rows,
        max_bytes=settings.precompute_upload_bytes,
    )

    def checked() -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in batches:
            check()
            rows = columns.conform(batch, spec, {KEY: spec.key, TIME: spec.time}, version)
            columns.check_values(rows, spec, first)
            first += len(rows)
            yield rows

    try:
        return _written(checked(), columns.columns_of(spec), folder)
    finally:
        batches.close()


def of_keys_seen(batches: Iterator[pa.RecordBatch], spec: PipelineSpec, folder: Path) -> Prepared:
    """What the registry has; an instance from before the spec asked for something may lack it, and is left out."""
    skipped = 0

    def complete() -> Iterator[pa.RecordBatch]:
        nonlocal skipped
        for batch in batches:
            needed = [name for name in columns.columns_of(spec).names if not columns.is_optional(spec, name)]
            whole = pc.is_valid(batch.column(KEY))
            for name in needed:
                whole = pc.and_(whole, pc.is_valid(batch.column(name)))
            rows = batch.filter(whole)
            skipped += len(batch) - len(rows)
            yield rows

    written = _written(complete(), columns.columns_of(spec), folder)
    return Prepared(written.files, written.rows, skipped)


def read(prepared: Prepared, spec: PipelineSpec, version: int) -> Iterator[pa.RecordBatch]:
    """The rows, as `columns.conform` makes them.

    Raises:
        Invalid: a column is missing or has another type.
    """
    wanted = columns.columns_of(spec).names
    for path in prepared.files:
        try:
            with pq.ParquetFile(path) as file:
                known = [name for name in wanted if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=READ_ROWS, columns=known, use_threads=False):
                    yield columns.conform(batch, spec, {}, version)
        except pa.ArrowException as error:
            raise Invalid(f"The rows cannot be read as Parquet ({type(error).__name__}).") from error


def _written(batches: Iterator[pa.RecordBatch], schema: pa.Schema, folder: Path) -> Prepared:
    path, rows = folder / "source.parquet", 0
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for batch in columns.rebatched(batches, READ_ROWS):
            writer.write_batch(batch)
            rows += len(batch)
    return Prepared([path], rows)
