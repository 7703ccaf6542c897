"""The segments of one process: appended by the event loop, synced by one thread, read by the shipper, removed as it tells.

Stated loss: none when the process is killed (`write` has returned before the answer leaves), at most the sync interval when
the machine loses power.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.serving.errors import LogFull, LogUnwritable
from services.serving.prediction_log.folder import DAMAGED_SUFFIX, SEGMENTS
from services.serving.prediction_log.frames import HEADER, MAGIC, Payload, frame
from services.serving.prediction_log.record import HEAD_BYTES, requested_ms

log = structlog.stdlib.get_logger(__name__)

SUFFIX = ".seg"
NEARLY_FULL = 0.9
FREE_BYTES = 2**20
"""With less left on its disk the log counts as unwritable."""


@dataclass(slots=True)
class Segment:
    """One file. `size` grows while it is written, `offset` while it is shipped."""

    path: Path
    number: int
    size: int
    """Bytes of complete frames, the magic line included; of a leftover: the file's size."""
    offset: int = len(MAGIC)
    sealed: bool = False
    began_s: float = 0.0


class Spool:
    """A bounded folder of segments. `append` is for one thread; everything may run beside it."""

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        segment_bytes: int = 16 * 2**20,
        segment_age_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the folder, which this process must hold. What an earlier process left there waits to be shipped.

        Args:
            folder: where the segments lie.
            limit_bytes: most bytes that may wait to be shipped; above it `append` refuses.
            segment_bytes: a segment that would grow beyond this is sealed and a new one begun.
            segment_age_s: a segment older than this is sealed, so that it can be removed once it is shipped.
            clock: monotonic seconds.

        Raises:
            OSError: the folder cannot be read.
        """
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._segments = _leftovers(folder)
        self._next_number = _next_number(folder)
        self._waiting = sum(segment.size - segment.offset for segment in self._segments)
        self._active: Segment | None = None
        self._descriptor = -1
        self._unsynced = False
        self._folder_unsynced = False
        self._to_close: list[int] = []
        self._to_unlink: list[Path] = []

    @property
    def sealed_below(self) -> int:
        """Segments of a lower number are no longer written."""
        with self._lock:
            return self._next_number if self._active is None else self._active.number

    @property
    def waiting_bytes(self) -> int:
        """Bytes not yet shipped."""
        with self._lock:
            return self._waiting

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest prediction was made that is not yet shipped, Unix milliseconds, as the disk has it; None: none waits."""
        with self._lock:
            waiting = [(segment.path, segment.offset) for segment in self._segments if segment.offset < segment.size]
        for path, offset in waiting:
            with suppress(OSError), path.open("rb", buffering=0) as file:  # shipped just now
                file.seek(offset + HEADER.size)
                at_ms = requested_ms(file.read(HEAD_BYTES))
                return int(os.fstat(file.fileno()).st_mtime * 1000) if at_ms is None else at_ms
        return None

    def check(self) -> None:
        """For readiness: raises Unavailable when predictions would be refused, or are about to be."""
        if self.waiting_bytes > self._limit_bytes * NEARLY_FULL:
            raise LogFull("the prediction log is full")
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < FREE_BYTES:
            raise LogUnwritable("the disk of the prediction log is full")

    def append(self, *payloads: Payload) -> None:
        """Write records, all or none, in one system call; when this returns, killing the process does not lose them.

        Raises:
            LogFull: too much waits to be shipped.
            LogUnwritable: the disk is full or broken. Nothing was appended.
            ValueError: a record is longer than a reader takes. Nothing was appended.
        """
        data = frame(*payloads)
        size = len(data)
        with self._lock:
            if self._waiting + size > self._limit_bytes:
                raise LogFull(
                    "The prediction log is full: the registry has not taken it for too long. Try again later."
                )
            try:
                self._write(self._segment_for(size), data)
            except OSError as error:
                log.error("the prediction log cannot be written", error=str(error), folder=str(self._folder))
                cause = (
                    "its disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "its disk does not take it"
                )
                raise LogUnwritable(
                    f"The prediction cannot be logged: {cause}. Nothing was answered; try again later."
                ) from error

    def sync(self) -> None:
        """Make what was appended survive a power cut, and seal a segment that is old and shipped. Blocks on the disk.

        Raises:
            OSError: the disk refused; the segment is sealed, since what a failed fsync leaves in memory cannot be trusted.
        """
        with self._lock:
            self._seal_if_old()
            to_close, self._to_close = self._to_close, []
            current = os.dup(self._descriptor) if self._unsynced and self._descriptor >= 0 else -1
            folder_unsynced, self._folder_unsynced = self._folder_unsynced, False
            self._unsynced = False
        try:
            if folder_unsynced:
                _sync_folder(self._folder)
            for descriptor in [*to_close, *([current] if current >= 0 else [])]:
                os.fsync(descriptor)
        except OSError:
            with self._lock:
                self._seal()
            raise
        finally:
            for descriptor in [*to_close, *([current] if current >= 0 else [])]:
                os.close(descriptor)
            self._unlink_done()

    def shipped(self, number: int, end: int) -> None:
        """Forget what a segment holds up to a byte: it is stored elsewhere for good. One of which nothing is left is removed."""
        with self._lock:
            segment = next((segment for segment in self._segments if segment.number == number), None)
            if segment is not None:
                passed = max(segment.offset, end)
                self._waiting -= passed - segment.offset
                segment.offset = passed
                self._remove_if_done(segment)
        self._unlink_done()

    def close(self) -> None:
        """Sync and close. Segments that still wait stay for the next process. Nothing may be appended afterwards."""
        with self._lock:
            self._seal()
            self._limit_bytes = 0
        self.sync()

    def _segment_for(self, size: int) -> Segment:
        active = self._active
        if active is not None and active.size > len(MAGIC) and active.size + size > self._segment_bytes:
            self._seal()
        else:
            self._seal_if_old()
        return self._active or self._begin()

    def _begin(self) -> Segment:
        path = self._folder / f"{self._next_number:012d}{SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._next_number += 1
        try:
            _write_all(descriptor, MAGIC)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        self._descriptor, self._folder_unsynced = descriptor, True
        self._active = Segment(path, self._next_number - 1, len(MAGIC), began_s=self._clock())
        self._segments.append(self._active)
        return self._active

    def _write(self, segment: Segment, data: bytes) -> None:
        try:
            _write_all(self._descriptor, data)
        except OSError:
            # The shipper may have read on into what is now cut off: nothing is ever appended behind it.
            with suppress(OSError):
                os.ftruncate(self._descriptor, segment.size)
            self._seal()
            raise
        segment.size += len(data)
        self._waiting += len(data)
        self._unsynced = True

    def _seal(self) -> None:
        if self._active is None:
            return
        segment, self._active = self._active, None
        segment.sealed = True
        self._to_close.append(self._descriptor)
        self._descriptor = -1
        self._remove_if_done(segment)

    def _seal_if_old(self) -> None:
        active = self._active
        if active is not None and active.size > len(MAGIC) and self._clock() - active.began_s > self._segment_age_s:
            self._seal()

    def _remove_if_done(self, segment: Segment) -> None:
        if segment.sealed and segment.offset >= segment.size:
            self._segments.remove(segment)
            self._to_unlink.append(segment.path)

    def _unlink_done(self) -> None:
        """Remove files outside of the lock: freeing a large one takes longer than an answer should wait."""
        with self._lock:
            done, self._to_unlink = self._to_unlink, []
        for path in done:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.error("a shipped log segment cannot be removed", error=str(error), segment=path.name)
                with self._lock:
                    self._to_unlink.append(path)  # the next sync tries again


def _leftovers(folder: Path) -> list[Segment]:
    found = []
    for path in sorted(folder.glob(SEGMENTS)):
        size = path.stat().st_size
        if size <= len(MAGIC):
            path.unlink()
        else:
            found.append(Segment(path, int(path.stem), size, sealed=True))
    return found


def _next_number(folder: Path) -> int:
    """A number that no segment has had that is still there, nor one that is kept as damaged: its name would be taken."""
    return 1 + max(
        (
            int(path.stem)
            for path in folder.iterdir()
            if path.suffix in (SUFFIX, DAMAGED_SUFFIX) and path.stem.isdecimal()
        ),
        default=0,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    """One write, so that the page cache has all of it or the caller hears of it."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were taken")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
