"""Reads the segments of a folder, oldest first, while another process may still be writing the newest."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.serving.prediction_log.folder import DAMAGED_SUFFIX, SEGMENTS
from services.serving.prediction_log.frames import (
    HEADER,
    MAGIC,
    find_frame,
    is_unfinished,
    next_frame_bytes,
    read_frames,
)
from services.serving.prediction_log.record import BEGINS

log = structlog.stdlib.get_logger(__name__)

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
        self._offset = 0
        self._damaged = 0

    def next_batch(self, *, max_bytes: int, max_records: int) -> Batch | None:
        """The oldest records not passed yet; None when there are none, or none complete.

        Raises:
            OSError: the folder cannot be read, or a damaged segment not be kept.
        """
        segments = list(self._segments())
        for index, (number, path) in enumerate(segments):
            if number != self._number:
                self._number, self._offset = number, 0
            try:
                size = path.stat().st_size
            except FileNotFoundError:  # passed to its end, and removed just now
                continue
            last = index == len(segments) - 1
            if self._offset == 0 and _has_magic(path):
                self._offset = len(MAGIC)
            while self._offset < size:
                payloads, end = _read(path, self._offset, size, max_bytes, max_records)
                if payloads:
                    return Batch(number, payloads, end, full=end < size or not last)
                if last and number >= self._sealed_below:
                    return None  # what follows is being written
                self._skip(path, size)
            if last and number >= self._sealed_below:
                return None
            self._passed(number, size)
        return None

    def pass_(self, batch: Batch) -> None:
        """Go on behind a batch, which is stored elsewhere for good."""
        self._offset = batch.end
        self._passed(batch.number, batch.end)

    def take_damaged(self) -> int:
        """Places found damaged since the last call."""
        damaged, self._damaged = self._damaged, 0
        return damaged

    def _segments(self) -> Iterator[tuple[int, Path]]:
        for path in sorted(self._folder.glob(SEGMENTS)):
            number = int(path.stem)
            if number >= self._number:
                yield number, path

    def _skip(self, path: Path, size: int) -> None:
        """Go on behind bytes that are no record: to the next whole one of the segment, or to its end."""
        with path.open("rb") as file:
            file.seek(self._offset)
            rest = file.read(size - self._offset)
        found = find_frame(rest, BEGINS)
        length = len(rest) if found is None else found
        damaged = found is not None or not is_unfinished(rest)
        if damaged:
            _keep(path)
            self._damaged += 1
            log.error("a log segment is damaged; it is kept", segment=path.name, at=self._offset, bytes=length)
        else:
            log.warning("a log segment ends in a record that was never finished", segment=path.name, bytes=length)
        self._offset += length


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _keep(path: Path) -> None:
    """Keep a segment for a look beside the one that is read on and removed; a link takes no room on a disk that may be full."""
    kept = path.with_suffix(DAMAGED_SUFFIX)
    if kept.exists():
        return  # by an earlier place in it: no number is used twice
    try:
        os.link(path, kept)
    except OSError:  # a file system without links
        part = path.with_suffix(".part")
        shutil.copyfile(path, part)
        part.replace(kept)


def _read(path: Path, offset: int, size: int, max_bytes: int, max_records: int) -> tuple[list[bytes], int]:
    """Records at an offset, and where they end."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(min(max(max_bytes, HEADER.size), size - offset))
        whole = next_frame_bytes(data)
        if whole is not None and len(data) < whole <= size - offset:
            data += file.read(whole - len(data))
    payloads = read_frames(data)[:max_records]
    return payloads, offset + sum(HEADER.size + len(payload) for payload in payloads)
