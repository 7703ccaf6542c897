"""A generation's manifest: the JSON file that names the generation by its own digest and its files by theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.artifacts import Digest
from shared.errors import ArtifactCorrupt, Invalid
from shared.manifest import DatasetFile, files_of, files_section

ROWS_FILE = "rows.arrow"
"""Arrow IPC: key, time (epoch microseconds), the model's raw features and the score, in batches of a fixed number of rows."""
INDEX_FILE = "index.bin"
"""The hashes of all keys in ascending order, uint64 [rows], then the row of each, uint32 [rows]; little-endian."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a reader of the files has to know."""

    pipeline: str
    version: int
    rows: int
    batch_rows: int
    seed: int
    """Of the keys' hash."""
    files: dict[str, DatasetFile]

    def encode(self) -> bytes:
        """The file."""
        document = {
            "format": FORMAT,
            "pipeline": self.pipeline,
            "version": self.version,
            "rows": self.rows,
            "batch_rows": self.batch_rows,
            "seed": self.seed,
            "files": files_section(self.files),
        }
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)

    @property
    def digests(self) -> Sequence[Digest]:
        """Of its files."""
        return [file.sha256 for file in self.files.values()]


def read_manifest(data: bytes, digest: Digest) -> Manifest:
    """The manifest that an artifact's bytes are.

    Raises:
        ArtifactCorrupt: they are no manifest that this release knows.
    """
    try:
        document: dict[str, Any] = orjson.loads(data)
        files = files_of(document)
        if document["format"] != FORMAT or not {ROWS_FILE, INDEX_FILE} <= files.keys():
            raise Invalid("another format")
        numbers = {name: int(document[name]) for name in ("version", "rows", "batch_rows", "seed")}
        return Manifest(pipeline=str(document["pipeline"]), files=files, **numbers)
    except (KeyError, TypeError, ValueError, Invalid) as error:
        raise ArtifactCorrupt(f"The artifact {digest} is no generation that this release can read: {error}.") from error
