"""The index leads every hash to its rows, held in memory or gone through the disk, and tells which rows share one."""

from pathlib import Path

import numpy as np
import pytest

from services.serving.offline import index
from services.serving.offline.index import IndexBuilder
from shared.errors import Invalid


def built(folder: Path, hashes: np.ndarray, held_rows: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    builder = IndexBuilder(folder, held_rows=held_rows)
    for part in np.array_split(hashes, 7):
        builder.add(part)
    shared = builder.write(folder / "index.bin")
    data = (folder / "index.bin").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["index.bin"], "no part is left"
    return np.frombuffer(data, "<u8", len(hashes)), np.frombuffer(data, "<u4", offset=8 * len(hashes)), [
        sorted(group.tolist()) for group in shared
    ]  # fmt: skip


@pytest.mark.parametrize("held_rows", [10_000, 100, 0])
def test_every_hash_leads_to_its_row(tmp_path: Path, held_rows: int) -> None:
    hashes = np.random.default_rng(3).integers(0, 2**64, 2000, np.uint64)
    sorted_hashes, rows, shared = built(tmp_path, hashes, held_rows)
    assert (np.sort(hashes) == sorted_hashes).all()
    assert (hashes[rows] == sorted_hashes).all()
    assert shared == []


@pytest.mark.parametrize("held_rows", [10_000, 2])
def test_rows_that_share_a_hash_are_told_in_groups(tmp_path: Path, held_rows: int) -> None:
    hashes = np.array([5, 2**63, 5, 1, 2**63, 5, 9], np.uint64)
    _, _, shared = built(tmp_path, hashes, held_rows)
    assert shared == [[0, 2, 5], [1, 4]]


def test_no_row_makes_an_empty_index(tmp_path: Path) -> None:
    sorted_hashes, rows, shared = built(tmp_path, np.empty(0, np.uint64), 10)
    assert (len(sorted_hashes), len(rows), shared) == (0, 0, [])


def test_more_rows_than_a_number_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MOST_ROWS", 5)
    builder = IndexBuilder(tmp_path)
    builder.add(np.arange(5, dtype=np.uint64))
    with pytest.raises(Invalid, match="may have 5 rows"):
        builder.add(np.arange(1, dtype=np.uint64))
