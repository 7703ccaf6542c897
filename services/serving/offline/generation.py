"""One generation as lookups use it: its files mapped into memory, one copy for all processes. No I/O but page faults."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from services.serving.models.catalogue import Offline
from services.serving.offline.key_hash import hash_key
from services.serving.offline.manifest import INDEX_FILE, ROWS_FILE, Manifest, read_manifest
from shared.artifacts import ArtifactStore, Digest
from shared.errors import ArtifactCorrupt
from shared.instances import epoch_us

KEY, TIME, SCORE = "key", "time", "score"


@dataclass(frozen=True, slots=True)
class Found:
    """A key's row."""

    row: int
    score: float


class Rows:
    """The scored rows of a generation, in their order."""

    def __init__(self, path: Path, batch_rows: int) -> None:
        """Map the file.

        Raises:
            ArtifactCorrupt: it is not such a file.
        """
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise ArtifactCorrupt(f"The rows of a generation cannot be read ({type(error).__name__}).") from error
        self._batch_rows = batch_rows
        self._fields = frozenset(file.schema.names) - {KEY, TIME, SCORE}
        self._keys = [batch.column(KEY) for batch in self._batches]
        self._scores = [batch.column(SCORE).to_numpy() for batch in self._batches]

    def key(self, row: int) -> str:
        """The key of a row."""
        batch, at = divmod(row, self._batch_rows)
        found: str = self._keys[batch][at].as_py()
        return found

    def score(self, row: int) -> float:
        """The score of a row."""
        batch, at = divmod(row, self._batch_rows)
        return float(self._scores[batch][at])

    @property
    def fields(self) -> frozenset[str]:
        """Names of the features."""
        return self._fields

    def value(self, row: int, name: str) -> Any:
        """A feature of a row; None where it is missing, and time for what is no feature."""
        batch, at = divmod(row, self._batch_rows)
        return self._batches[batch].column(name if name in self._fields else TIME)[at].as_py()

    def values(self, row: int) -> dict[str, Any]:
        """Key, time (epoch microseconds) and features of a row by name, those that are missing left out."""
        batch, at = divmod(row, self._batch_rows)
        columns = zip(self._batches[batch].schema.names, self._batches[batch].columns, strict=True)
        values = {name: column[at].as_py() for name, column in columns if name != SCORE}
        return {name: value for name, value in values.items() if value is not None}


class Generation:
    """Open for lookups. The files stay mapped until nobody holds it any more."""

    def __init__(self, offline: Offline, manifest: Manifest, rows: Path, index: Path) -> None:
        """Map the files.

        Raises:
            ArtifactCorrupt: they are not what the manifest says.
        """
        self.offline = offline
        self.manifest = manifest
        self.computed_us = epoch_us(offline.computed_at)
        self.computed_at = offline.computed_at.isoformat()
        self._rows = Rows(rows, manifest.batch_rows)
        count = manifest.rows
        if index.stat().st_size != 12 * count:
            raise ArtifactCorrupt("The index of a generation has not one entry for each row.")
        with index.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if count else b""
        self._hashes = np.frombuffer(data, "<u8", count)
        self._of_hash = np.frombuffer(data, "<u4", count, 8 * count)

    def find(self, key: str) -> Found | None:
        """The row of a key, None when it has none."""
        wanted = np.uint64(hash_key(key, self.manifest.seed))
        at = int(self._hashes.searchsorted(wanted))
        while at < len(self._hashes) and self._hashes[at] == wanted:
            row = int(self._of_hash[at])
            if self._rows.key(row) == key:
                return Found(row, self._rows.score(row))
            at += 1
        return None

    def fields(self, key_name: str, time_name: str) -> frozenset[str]:
        """Names of what it holds of each row, as the spec has them."""
        return self._rows.fields | {key_name, time_name}

    def value(self, found: Found, name: str) -> Any:
        """A feature of a row; None where it is missing."""
        return self._rows.value(found.row, name)

    @property
    def digests(self) -> list[Digest]:
        """Of all its files."""
        return [self.offline.digest, *self.manifest.digests]

    def instance(self, found: Found, key_name: str, time_name: str) -> dict[str, Any]:
        """What was scored, as a request would send it."""
        return as_instance(self._rows.values(found.row), key_name, time_name)


def as_instance(values: Mapping[str, Any], key_name: str, time_name: str) -> dict[str, Any]:
    """A stored row as a request would send it."""
    instance = {name: value for name, value in values.items() if name not in (KEY, TIME)}
    return {**instance, key_name: values[KEY], time_name: values[TIME]}


def open_generation(store: ArtifactStore, offline: Offline, cache: Path) -> Generation:
    """Fetch, verify and map a generation. Blocks.

    Args:
        cache: folder for verified copies of files that are far away.

    Raises:
        ArtifactMissing, ArtifactCorrupt: its files are not there, or not what was written.
        Unavailable: the storage is away.
    """
    manifest = read_manifest(store.fetch(offline.digest, cache).read_bytes(), offline.digest)
    paths = {name: store.fetch(manifest.files[name].sha256, cache) for name in (ROWS_FILE, INDEX_FILE)}
    return Generation(offline, manifest, paths[ROWS_FILE], paths[INDEX_FILE])
