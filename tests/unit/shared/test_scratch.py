"""Scratch folders of those that died are removed, never those of the living."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shared.scratch import scratch, sweep

OWNER = """
import sys
from shared.scratch import scratch
with scratch() as folder:
    (folder / "events.parquet").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_a_folder_is_swept_once_its_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        os.utime(folder, (0, 0))
        sweep()
        assert (folder / "events.parquet").exists(), "its owner lives"
        owner.kill()
    assert folder.exists()
    sweep()
    assert not folder.exists()


def test_a_folder_that_was_just_made_is_left_alone(tmp_path: Path) -> None:
    new = Path(tempfile.mkdtemp(prefix="relevo-scratch-"))
    other = tmp_path / "other"
    other.mkdir()
    os.utime(other, (0, 0))
    sweep()
    assert new.exists()
    assert other.exists(), "it is nobody's scratch"


def test_what_only_links_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    os.utime(kept, (0, 0))
    (tmp_path / "relevo-scratch-link").symlink_to(kept)
    sweep()
    assert kept.exists()


def test_it_goes_with_its_block(tmp_path: Path) -> None:
    with scratch() as folder:
        (folder / "events.parquet").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert not folder.exists()
