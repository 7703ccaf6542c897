"""Scoring a source into a generation's two files: reading, scoring and writing overlap, each in a thread of its own.

ONNX Runtime works outside of Python's global lock, and so does most of what Arrow and numpy do with a batch.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from services.serving.offline import columns
from services.serving.offline.generation import KEY, Rows
from services.serving.offline.index import IndexBuilder
from services.serving.offline.key_hash import hash_keys
from services.serving.offline.manifest import INDEX_FILE, ROWS_FILE
from shared.errors import Invalid
from shared.feeds import Feeds
from shared.scoring import score
from shared.spec import PipelineSpec

RUN_ROWS = 2048
"""Rows of one run: few enough that what a layer gives the next stays in a core's cache."""
WRITES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Scorer:
    """The version that scores."""

    session: ort.InferenceSession
    spec: PipelineSpec
    """The one it was trained by."""
    inputs: list[Mapping[str, Any]]
    """Of its registered signature."""
    version: int


@dataclass(frozen=True, slots=True)
class Scored:
    """Scored rows in their file, and the index that is still to be written."""

    rows_path: Path
    rows: int
    batch_rows: int
    index: IndexBuilder
    folder: Path

    def write_index(self) -> Path:
        """Write the index of the keys.

        Raises:
            Invalid: a key stands in several rows; the message names it.
        """
        path = self.folder / INDEX_FILE
        shared = self.index.write(path)
        if shared:
            _check_unique(shared, Rows(self.rows_path, self.batch_rows))
        return path


def score_rows(
    batches: Iterator[pa.RecordBatch],
    scorer: Scorer,
    folder: Path,
    seed: int,
    *,
    done: Callable[[int], None] = lambda rows: None,
    held_rows: int | None = None,
) -> Scored:
    """Score rows, write them with their scores, and gather the index of their keys.

    Args:
        batches: as `columns.conform` makes them, of any size.
        folder: where files are written.
        seed: of the keys' hash.
        done: told after each batch how many rows are scored; raises to stop.
        held_rows: how many rows of the index may be in memory.

    Raises:
        Invalid: a score is not finite; the message names a key.
    """
    size = columns.batch_rows(scorer.spec)
    waiting: deque[Future[None]] = deque()
    scored = 0
    with (
        _Writer(folder, scorer.spec, seed, held_rows) as writer,
        ThreadPoolExecutor(1, thread_name_prefix="read") as reading,
        ThreadPoolExecutor(1, thread_name_prefix="write") as writing,
    ):
        ahead = _feeding(columns.rebatched(batches, size), scorer)
        upcoming = reading.submit(next, ahead, None)
        while (given := upcoming.result()) is not None:
            upcoming = reading.submit(next, ahead, None)
            batch, feeds = given
            scores = score(scorer.session, feeds, batch_rows=RUN_ROWS)
            _check_finite(scores, batch, scorer.version)
            while len(waiting) >= WRITES_AHEAD:
                waiting.popleft().result()
            waiting.append(writing.submit(writer.write, batch, scores))
            scored += len(batch)
            done(scored)
        for write in waiting:
            write.result()
    return Scored(folder / ROWS_FILE, scored, size, writer.index, folder)


def _feeding(batches: Iterator[pa.RecordBatch], scorer: Scorer) -> Iterator[tuple[pa.RecordBatch, Feeds]]:
    for batch in batches:
        yield batch, columns.feeds(batch, scorer.spec, scorer.inputs)


class _Writer:
    """Writes scored batches; from one thread."""

    def __init__(self, folder: Path, spec: PipelineSpec, seed: int, held_rows: int | None) -> None:
        # With the seed, no two generations have the same bytes: the files of one can be removed without asking for others.
        self._schema = columns.stored_columns(spec).with_metadata({"seed": str(seed)})
        self._seed = seed
        self._path = folder / ROWS_FILE
        self.index = IndexBuilder(folder) if held_rows is None else IndexBuilder(folder, held_rows=held_rows)

    def __enter__(self) -> "_Writer":
        self._file = pa.ipc.new_file(str(self._path), self._schema)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, batch: pa.RecordBatch, scores: np.ndarray) -> None:
        self.index.add(hash_keys(batch.column(KEY), self._seed))
        self._file.write_batch(pa.record_batch([*batch.columns, pa.array(scores)], schema=self._schema))


def _check_finite(scores: np.ndarray, batch: pa.RecordBatch, version: int) -> None:
    if (finite := np.isfinite(scores)).all():
        return
    key = batch.column(KEY)[int(np.argmin(finite))].as_py()
    raise Invalid(
        f"Version {version} gives no finite score for {np.count_nonzero(~finite)} of {len(scores)} rows; the first has the "
        f"key {key[:64]!r}."
    )


def _check_unique(shared: list[np.ndarray], rows: Rows) -> None:
    for group in shared:
        keys = [rows.key(int(row)) for row in group]
        for key in set(keys):
            if keys.count(key) > 1:
                first, second = sorted(int(row) for row, name in zip(group, keys, strict=True) if name == key)[:2]
                raise Invalid(
                    f"The key {key[:64]!r} stands in rows {first} and {second}; each key may have one row.",
                    errors=[{"loc": [second, KEY], "msg": "is the key of another row"}],
                )
