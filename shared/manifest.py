"""A dataset's manifest: the JSON file that names the dataset by its own digest and its Parquet files by theirs.

Written by the data service; read by whoever needs a file of the dataset. What a reader relies on is here, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.artifacts import ArtifactStore, Digest, check_digest
from shared.errors import ArtifactCorrupt, Invalid

TRAIN_FILE = "train.parquet"
TEST_FILE = "test.parquet"


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """One file of a dataset."""

    sha256: Digest
    size_bytes: int
    rows: int


def files_section(files: dict[str, DatasetFile]) -> dict[str, Any]:
    """The `files` object of a manifest: `{"train.parquet": {"sha256", "size_bytes", "rows"}, ...}`."""
    return {
        name: {"sha256": check_digest(file.sha256), "size_bytes": file.size_bytes, "rows": file.rows}
        for name, file in sorted(files.items())
    }


def read_files(store: ArtifactStore, dataset_digest: Digest) -> dict[str, DatasetFile]:
    """The files of the dataset that `dataset_digest` names.

    Raises:
        ArtifactMissing, ArtifactCorrupt: the manifest is not stored, or is no manifest.
        Unavailable: the storage is away.
    """
    try:
        return files_of(orjson.loads(store.get(dataset_digest)))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, Invalid) as error:
        raise ArtifactCorrupt(f"The manifest {dataset_digest} is not a dataset's manifest: {error}.") from error


def files_of(document: Mapping[str, Any]) -> dict[str, DatasetFile]:
    """The files that a manifest names; raises KeyError, TypeError, ValueError, AttributeError or Invalid when it is none."""
    return {
        str(name): DatasetFile(check_digest(file["sha256"]), int(file["size_bytes"]), int(file["rows"]))
        for name, file in document["files"].items()
    }
