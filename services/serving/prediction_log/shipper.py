"""Moves logged predictions from the log to Postgres, in a process of its own; each leaves the disk only after its commit."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.serving.prediction_log.folder import SEGMENTS, claim_orphans
from services.serving.prediction_log.record import Logged, decode, plainer
from services.serving.prediction_log.tail import ALL, Batch, Tail

log = structlog.stdlib.get_logger(__name__)

BATCH_BYTES = 8 * 2**20
BATCH_RECORDS = 2000
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 10.0
ORPHANS_EVERY_S = 30.0
FLUSH_RETRY_S = 0.2
REFUSED_FILE = "refused.jsonl"
END = b"end\n"
"""Serving's word on the stdin of the shipper's process."""


class RecordRefused(Exception):
    """The database will never take this record; sending it again is no use."""


Refused = tuple[bytes, str]
"""What is set aside, and why."""

Store = Callable[[Sequence[Logged]], None]
"""Stores records for good, each once however often it is given. Raises RecordRefused, or anything else to be tried again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What serving is told."""

    number: int = 0
    """The segment that was read; 0: none."""
    end: int = 0
    """Up to where it is stored, bytes."""
    shipped_rows: int = 0
    """Rows stored since the last report."""
    failures: int = 0
    """Batches that failed since the last report."""
    refused: int = 0
    """Records set aside since the last report."""
    damaged: int = 0
    """Damaged places in the log since the last report; the segments are kept."""
    oldest_ms: int | None = None
    """When the oldest prediction in hand was made, Unix milliseconds; None: nothing waits."""


class Shipper:
    """Ships one process's folder, and those of processes that are gone."""

    def __init__(
        self,
        spools: Path,
        folder: Path,
        store: Store,
        report: Callable[[Progress], None],
        *,
        sealed_below: int,
        interval_s: float,
    ) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            spools: the folder with the folders of all processes.
            folder: the one whose process this works for.
            store: where records go.
            report: told the progress.
            sealed_below: segments of a lower number were left by an earlier process.
            interval_s: time between two batches under light load.
        """
        self._spools = spools
        self._folder = folder
        self._store = store
        self._report = report
        self._interval_s = interval_s
        self._tail = Tail(folder, sealed_below=sealed_below, passed=self._passed)
        self._position = (0, 0)
        self._told = Progress()
        self._damaged = 0
        self._orphans = self._ship_orphans()
        self._orphans_due_s = 0.0

    def run(self, stopping: threading.Event, flush_s: float) -> None:
        """Ship until `stopping` is set, and then what is left for at most `flush_s` seconds."""
        backoff_s = FIRST_BACKOFF_S
        deadline_s = float("inf")
        while time.monotonic() < deadline_s:
            if stopping.is_set() and deadline_s == float("inf"):
                deadline_s = time.monotonic() + flush_s
            try:
                batch = self._ship_one(self._folder, self._tail)
                if batch is None and stopping.is_set():
                    return
                # Full batches follow each other at once; under light load a pause gathers small ones.
                more = batch is not None and batch.full
                if not more and not stopping.is_set():
                    more = self._ship_one_of_orphans()
                pause_s = 0.0 if more or stopping.is_set() else self._interval_s
                backoff_s = FIRST_BACKOFF_S
            except Exception as error:  # noqa: BLE001 - whatever it was, the records are on disk and are tried again
                pause_s = FLUSH_RETRY_S if stopping.is_set() else backoff_s * random.uniform(0.7, 1.3)  # noqa: S311
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                self._failed(error, again_in_s=pause_s)
            if stopping.is_set():
                time.sleep(pause_s)
            else:
                stopping.wait(pause_s)

    def _failed(self, error: Exception, *, again_in_s: float) -> None:
        log.warning(
            "predictions cannot be shipped; trying again", error=type(error).__name__, in_s=round(again_in_s, 1)
        )
        self._tell(failures=1, oldest_ms=self._told.oldest_ms)

    def _passed(self, number: int, end: int) -> None:
        self._position = (number, end)

    def _tell(
        self, *, shipped_rows: int = 0, failures: int = 0, refused: int = 0, oldest_ms: int | None = None
    ) -> None:
        """Report, if there is anything new."""
        damaged, self._damaged = self._damaged, 0
        progress = Progress(*self._position, shipped_rows, failures, refused, damaged, oldest_ms)
        if shipped_rows or failures or refused or damaged or progress != self._told:
            self._told = progress
            self._report(progress)

    def _ship_one(self, folder: Path, tail: Tail) -> Batch | None:
        batch = tail.next_batch(max_bytes=BATCH_BYTES, max_records=BATCH_RECORDS)
        self._damaged += tail.take_damaged()
        if batch is None:
            self._tell()
            return None
        records, refused = _decode(batch)
        if records:
            self._tell(oldest_ms=records[0].requested_ms)
            shipped_rows = self._store_or_refuse(records, refused)
        else:
            shipped_rows = 0
        # Only now, when all else is stored: a batch that an outage cuts short is shipped again as a whole.
        _set_aside(folder, refused)
        tail.pass_(batch)
        self._tell(
            shipped_rows=shipped_rows,
            refused=len(refused),
            oldest_ms=records[-1].requested_ms if records else None,
        )
        return batch

    def _ship_one_of_orphans(self) -> bool:
        """Ship one batch that a process that is gone has left; whether more of it may be there."""
        if time.monotonic() < self._orphans_due_s:
            return False
        if next(self._orphans, None) is not None:
            return True
        self._orphans = self._ship_orphans()
        self._orphans_due_s = time.monotonic() + ORPHANS_EVERY_S
        return False

    def _ship_orphans(self) -> Iterator[Path]:
        """A batch a step, since the own log comes first; gives the folder."""
        for folder in claim_orphans(self._spools):
            log.info("shipping the log of a process that is gone", folder=folder.path.name)
            tail = Tail(folder.path, sealed_below=ALL, passed=_remover(folder.path))
            try:
                while self._ship_one(folder.path, tail) is not None:
                    yield folder.path
            except Exception as error:  # noqa: BLE001 - one that cannot be read holds up neither the own log nor the others
                self._failed(error, again_in_s=ORPHANS_EVERY_S)
                yield folder.path

    def _store_or_refuse(self, records: Sequence[Logged], refused: list[Refused]) -> int:
        """Store what the database takes and list what it does not; returns the rows stored."""
        try:
            self._store(records)
        except RecordRefused:
            # Most often it is a number that is no double: all are written anew before the search for one that is worse.
            plain = []
            for record in records:
                try:
                    plain.append((record, plainer(record)))
                except ValueError as error:
                    refused.append((record.document, str(error)))
            return self._store_halves(plain, refused)
        return sum(record.rows for record in records)

    def _store_halves(self, records: Sequence[tuple[Logged, Logged]], refused: list[Refused]) -> int:
        """Store records, each with how it was logged beside how it is to be stored: one bad one must not hold up the others."""
        if not records:
            return 0
        try:
            self._store([plain for _, plain in records])
        except RecordRefused as error:
            if len(records) == 1:
                refused.append((records[0][0].document, str(error)))
                return 0
            half = len(records) // 2
            return self._store_halves(records[:half], refused) + self._store_halves(records[half:], refused)
        return sum(plain.rows for _, plain in records)


def _decode(batch: Batch) -> tuple[list[Logged], list[Refused]]:
    records, refused = [], []
    for payload in batch.payloads:
        try:
            records.append(decode(payload))
        except ValueError as error:
            refused.append((payload, str(error)))
    return records, refused


def _set_aside(folder: Path, refused: Sequence[Refused]) -> None:
    if not refused:
        return
    with (folder / REFUSED_FILE).open("ab") as file:
        for payload, reason in refused:
            log.error("a logged prediction cannot be stored and is set aside", file=REFUSED_FILE, reason=reason)
            file.write(payload + b"\n")
        file.flush()
        os.fsync(file.fileno())  # the log forgets it next


def _remover(folder: Path) -> Callable[[int, int], None]:
    """For a folder that nobody writes: a segment goes as soon as all of it is of no more use."""

    def passed(number: int, end: int) -> None:
        for path in folder.glob(SEGMENTS):
            if int(path.stem) == number and end >= path.stat().st_size:
                path.unlink()

    return passed
