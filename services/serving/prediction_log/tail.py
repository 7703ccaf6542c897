"""Reads the segments of a folder, oldest first, while another process may still be writing the newest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.serving.prediction_log.folder import SEGMENTS
from services.serving.prediction_log.frames import HEADER, MAGIC, next_frame_bytes, read_frames

log = structlog.stdlib.get_logger(__name__)

DAMAGED_SUFFIX = ".damaged"
ALL = 2**63


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were read and not yet passed, all of one segment."""

    number: int
    """The segment's."""
    payloads: list[bytes]
    end: int
    """Where they end in it, bytes."""
    full: bool
    """Whether more follows already."""


class Tail:
    """A place in the log that moves on as batches are passed."""

    def __init__(self, folder: Path, *, sealed_below: int, passed: Callable[[int, int], None]) -> None:
        """Begin at the oldest segment.

        Args:
            folder: where the segments lie.
            sealed_below: segments of a lower number are no longer written, nor is any that another one follows; `ALL`: none is.
            passed: told the number of a segment and up to which byte it is of no more use.
        """
        self._folder = folder
        self._sealed_below = sealed_below
        self._passed = passed
        self._number = 0
        self._offset = len(MAGIC)

    def next_batch(self, *, max_bytes: int, max_records: int) -> Batch | None:
        """The oldest records not passed yet; None when there are none, or none complete.

        Raises:
            OSError: the folder cannot be read.
        """
        segments = list(self._segments())
        for index, (number, path) in enumerate(segments):
            if number != self._number:
                self._number, self._offset = number, len(MAGIC)
            try:
                size = path.stat().st_size
            except FileNotFoundError:  # passed to its end, and removed just now
                continue
            damaged = False
            if self._offset < size:
                payloads, end, damaged = _read(path, self._offset, size, max_bytes, max_records)
                if payloads:
                    return Batch(number, payloads, end, full=end < size or index < len(segments) - 1)
            if number >= self._sealed_below and index == len(segments) - 1:
                return None  # what follows is being written
            if self._offset < size:
                self._give_up_rest(path, size, damaged=damaged)
            self._offset = size
            self._passed(number, size)
        return None

    def pass_(self, batch: Batch) -> None:
        """Go on behind a batch, which is stored elsewhere for good."""
        self._offset = batch.end
        self._passed(batch.number, batch.end)

    def _segments(self) -> Iterator[tuple[int, Path]]:
        for path in sorted(self._folder.glob(SEGMENTS)):
            number = int(path.stem)
            if number >= self._number:
                yield number, path

    def _give_up_rest(self, path: Path, size: int, *, damaged: bool) -> None:
        """End a segment at its last whole frame: what follows was torn while it was written."""
        if damaged:
            path.replace(path.with_suffix(DAMAGED_SUFFIX))
        log.warning(
            "a log segment ends in bytes that are no record",
            segment=path.name, bytes=size - self._offset, kept_as_damaged=damaged,
        )  # fmt: skip


def _read(path: Path, offset: int, size: int, max_bytes: int, max_records: int) -> tuple[list[bytes], int, bool]:
    """Records at an offset, where they end, and whether what follows is damage rather than a torn tail."""
    with path.open("rb", buffering=0) as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            return [], offset, len(magic) == len(MAGIC)
        file.seek(offset)
        data = file.read(min(max_bytes, size - offset))
        whole = next_frame_bytes(data)
        if whole is not None and len(data) < whole <= size - offset:
            data += file.read(whole - len(data))
    frames = read_frames(data)
    payloads = frames.payloads[:max_records]
    end = offset + sum(HEADER.size + len(payload) for payload in payloads)
    return payloads, end, frames.damaged and any(data[frames.read_bytes :])
