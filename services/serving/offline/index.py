"""The index of a generation: which row a key's hash leads to. Built in bounded memory, whatever the number of rows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shared.errors import Invalid

HELD_ROWS = 4_000_000
"""Above so many rows, what was gathered goes to disk, in parts by the hash's first bits."""
PARTS = 256
MOST_ROWS = 2**32 - 1
MOST_SHARED = 1000

_ENTRY = np.dtype([("hash", "<u8"), ("row", "<u4")])


class IndexBuilder:
    """Takes the hashes of the rows in order, and writes the index at the end."""

    def __init__(self, folder: Path, *, held_rows: int = HELD_ROWS) -> None:
        """Prepare.

        Args:
            folder: for parts, when there are too many rows to hold.
            held_rows: how many may be held.
        """
        self._folder = folder
        self._held_rows = held_rows
        self._held: list[np.ndarray] = []
        self._waiting = 0
        self._spilled = False
        self.rows = 0

    def add(self, hashes: np.ndarray) -> None:
        """The next rows' hashes, uint64 [n].

        Raises:
            Invalid: more rows than an index can hold.
        """
        if self.rows + len(hashes) > MOST_ROWS:
            raise Invalid(f"A generation may have {MOST_ROWS:,} rows; score fewer keys.")
        self._held.append(hashes)
        self._waiting += len(hashes)
        self.rows += len(hashes)
        if self._waiting > self._held_rows:
            self._spill()

    def write(self, path: Path) -> list[np.ndarray]:
        """Write the index.

        Returns:
            Groups of rows whose keys share a hash, a thousand groups at most: nearly always the same key given twice.
        """
        if self._spilled:
            self._spill()
        shared: list[np.ndarray] = []
        with path.open("wb") as hashes, path.open("r+b") as rows:
            rows.seek(8 * self.rows)
            for part, of_part in self._parts():
                order = np.argsort(part)
                sorted_hashes, sorted_rows = part[order], of_part[order]
                hashes.write(sorted_hashes.data)
                hashes.flush()
                rows.write(sorted_rows.data)
                if len(shared) < MOST_SHARED:
                    shared += _sharing(sorted_hashes, sorted_rows)
        return shared[:MOST_SHARED]

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Hashes and their rows, in parts that follow each other in the order of the hashes."""
        if not self._spilled:
            yield self._all_held()
            return
        for number in range(PARTS):
            if (part := self._part(number)).exists():
                entries = np.fromfile(part, _ENTRY)
                yield np.ascontiguousarray(entries["hash"]), np.ascontiguousarray(entries["row"])
                part.unlink()

    def _all_held(self) -> tuple[np.ndarray, np.ndarray]:
        hashes = np.concatenate(self._held) if self._held else np.empty(0, np.uint64)
        return hashes, np.arange(self.rows - len(hashes), self.rows, dtype=np.uint32)

    def _spill(self) -> None:
        hashes, rows = self._all_held()
        numbers = (hashes >> np.uint64(56)).astype(np.uint8)
        order = np.argsort(numbers, kind="stable")
        entries = np.empty(len(hashes), _ENTRY)
        entries["hash"], entries["row"] = hashes[order], rows[order]
        ends = np.cumsum(np.bincount(numbers, minlength=PARTS))
        for number, part in enumerate(np.split(entries, ends[:-1])):
            if len(part):
                with self._part(number).open("ab") as file:
                    file.write(part.tobytes())
        self._held, self._waiting, self._spilled = [], 0, True

    def _part(self, number: int) -> Path:
        return self._folder / f"index-{number:03}.part"


def _sharing(hashes: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """The rows of each hash that several rows have; the hashes ascend."""
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    if not len(same):
        return []
    gaps = np.diff(same) > 1
    starts = same[np.concatenate([[True], gaps])][:MOST_SHARED]
    ends = same[np.concatenate([gaps, [True]])][:MOST_SHARED] + 2
    return [rows[start:end] for start, end in zip(starts, ends, strict=True)]
