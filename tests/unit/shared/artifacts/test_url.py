"""Which URLs name an artifact store."""

from pathlib import Path

import pytest

from shared.artifacts import open_store
from shared.artifacts.folder import FolderStore
from shared.artifacts.s3 import BucketStore


def test_an_absolute_folder_with_a_blank_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my artifacts"
    assert isinstance(open_store(folder.as_uri()), FolderStore)
    assert folder.is_dir()


@pytest.mark.parametrize("url", ["file://.relevo/artifacts", "file://./.relevo/artifacts"])
def test_a_folder_below_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    open_store(url)
    assert (tmp_path / ".relevo" / "artifacts").is_dir()


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/prefix/below/"])
def test_a_bucket(url: str) -> None:
    assert isinstance(open_store(url), BucketStore)


@pytest.mark.parametrize(
    "url",
    ["", "/var/lib/relevo", "file://", "file:///", "file://host/folder", "file:///a?b", "file:///a#b", "s3:///prefix", "gs://bucket"],
)  # fmt: skip
def test_what_names_no_store_says_what_would(url: str) -> None:
    with pytest.raises(ValueError, match="an artifact store's URL"):
        open_store(url)
