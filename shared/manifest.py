"""The manifest of a dataset version: canonical JSON whose sha256 names the dataset and which names its two Parquet files.

    manifest = read_manifest(store, dataset.digest)
    path = store.fetch(manifest.train.sha256, cache_dir)      # columns: key, time, every input feature, label

Nothing in it depends on when or where it was written, so that building the same version again gives the same digest.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

from shared.artifacts import ArtifactStore, Digest
from shared.errors import ArtifactCorrupt

FORMAT = "relevo-dataset-1"
Split = Literal["train", "test"]


@dataclass(frozen=True)
class SplitFile:
    """One split: a Parquet file sorted by (time, key)."""

    sha256: Digest
    """Of the file's bytes: its name in the artifact store."""
    size_bytes: int
    rows: int
    rows_sha256: Digest
    """Of the rows alone, whatever wrote them (`services.data.files.rows_digest`)."""
    start: datetime
    end: datetime
    """Event times lie in [start, end)."""


@dataclass(frozen=True)
class Manifest:
    """What a dataset version is made of."""

    pipeline: str
    spec_version: int
    spec_digest: Digest
    as_of: datetime
    """Nothing that happened or became known later is in it."""
    watermarks: Mapping[str, int]
    """Highest ingest sequence read of `events`, `labels` and `predictions`."""
    label: Mapping[str, str]
    """The label policy as in the spec: `name`, `mature_after`, `if_missing`."""
    columns: Mapping[str, str]
    """Arrow type of each column, in the files' order."""
    engine: Mapping[str, str]
    """Versions of what joined and wrote: Parquet bytes may differ between them, rows may not."""
    train: SplitFile
    test: SplitFile

    def encode(self) -> bytes:
        """Canonical JSON: keys sorted, times in UTC to the microsecond."""
        document = {"format": FORMAT, **asdict(self)}
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def decode_manifest(data: bytes) -> Manifest:
    """The inverse of `Manifest.encode`.

    Raises:
        ArtifactCorrupt: not a manifest of this format.
    """
    try:
        document = orjson.loads(data)
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
        document["as_of"] = datetime.fromisoformat(document["as_of"])
        return Manifest(**{**document, "train": _split(document["train"]), "test": _split(document["test"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactCorrupt(f"what is stored as a dataset manifest is not one ({error})") from None


def read_manifest(store: ArtifactStore, digest: Digest) -> Manifest:
    """The manifest of the dataset with this digest.

    Raises:
        ArtifactMissing, ArtifactCorrupt, Unavailable: as `ArtifactStore.get`; or it is no manifest.
    """
    return decode_manifest(store.get(digest))


def _split(document: dict[str, Any]) -> SplitFile:
    start, end = (datetime.fromisoformat(document[name]) for name in ("start", "end"))
    return SplitFile(**{**document, "start": start, "end": end})
