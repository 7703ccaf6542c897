"""A dataset's files by name, as its manifest has them."""

from pathlib import Path

import orjson
import pytest

from shared.artifacts import open_store
from shared.errors import ArtifactCorrupt, ArtifactMissing
from shared.manifest import TEST_FILE, TRAIN_FILE, DatasetFile, files_section, read_files


def test_written_and_read(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    files = {TEST_FILE: DatasetFile("a" * 64, 10, 3), TRAIN_FILE: DatasetFile("b" * 64, 20, 7)}
    digest = store.put_bytes(orjson.dumps({"as_of": "2013-03-01", "files": files_section(files)}))
    assert read_files(store, digest) == files


@pytest.mark.parametrize(
    "content", [b"no json", b"[]", b"{}", b'{"files": 1}', b'{"files": {"x": {"sha256": "../etc", "size_bytes": 1, "rows": 1}}}']
)  # fmt: skip
def test_what_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    store = open_store(f"file://{tmp_path}")
    with pytest.raises(ArtifactCorrupt, match="not a dataset's manifest"):
        read_files(store, store.put_bytes(content))
    with pytest.raises(ArtifactMissing):
        read_files(store, "c" * 64)
