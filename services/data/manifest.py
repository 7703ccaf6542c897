"""The manifest: canonical JSON whose sha256 names the dataset. Nothing in it depends on when or where it was written.

What other services need of it, the names and digests of the files, is read through `shared.manifest`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

from services.data.split import Window
from shared.artifacts import ArtifactStore, Digest
from shared.artifacts.base import sha256_hex
from shared.errors import ArtifactCorrupt
from shared.manifest import TEST_FILE, TRAIN_FILE, DatasetFile, files_section

FORMAT = "relevo-dataset-1"
Split = Literal["train", "test"]
FILE_OF: dict[Split, str] = {"train": TRAIN_FILE, "test": TEST_FILE}


@dataclass(frozen=True)
class SplitEntry:
    """One split: its file, its window of event time, and what its rows are whatever wrote them."""

    file: DatasetFile
    window: Window
    rows_sha256: Digest
    """Of the values alone (`services.data.files`)."""


@dataclass(frozen=True)
class Manifest:
    """What a dataset version is made of."""

    pipeline: str
    spec_version: int
    spec_digest: Digest
    as_of: datetime
    watermarks: Mapping[str, int]
    """Highest ingest sequence read of `events`, `labels` and `predictions`."""
    label: Mapping[str, str]
    """The label policy as in the spec: `name`, `mature_after`, `if_missing`."""
    columns: Sequence[Mapping[str, str]]
    """`name` and Arrow `type` of each column, in the files' order."""
    engine: Mapping[str, str]
    """Versions of what joined and wrote: Parquet bytes may differ between them, rows may not."""
    splits: Mapping[Split, SplitEntry]

    def encode(self) -> bytes:
        """Canonical JSON: keys sorted, times in UTC."""
        document = {
            "format": FORMAT,
            "pipeline": self.pipeline,
            "spec_version": self.spec_version,
            "spec_digest": self.spec_digest,
            "as_of": self.as_of,
            "watermarks": self.watermarks,
            "label": self.label,
            "columns": self.columns,
            "engine": self.engine,
            "files": files_section({FILE_OF[name]: entry.file for name, entry in self.splits.items()}),
            "splits": {
                name: {"start": entry.window.start, "end": entry.window.end, "rows_sha256": entry.rows_sha256}
                for name, entry in self.splits.items()
            },
        }
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)

    @property
    def digest(self) -> Digest:
        """The dataset's name."""
        return sha256_hex(self.encode())


def read_rows_digests(store: ArtifactStore, dataset_digest: Digest) -> dict[str, Any]:
    """`rows_sha256` of each split of a stored dataset.

    Raises:
        ArtifactMissing, ArtifactCorrupt, Unavailable: as `ArtifactStore.get`; or it is no manifest.
    """
    try:
        splits = orjson.loads(store.get(dataset_digest))["splits"]
        return {name: entry["rows_sha256"] for name, entry in splits.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactCorrupt(f"The manifest {dataset_digest} is not a dataset's manifest: {error}.") from error
