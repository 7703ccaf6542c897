"""Moves logged predictions from the log to Postgres, in a process of its own; each leaves the disk only after its commit."""

import random
import threading
import time
from collections.abc import Callable, Sequence
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


class RecordRefused(Exception):
    """The database will never take this record; sending it again is no use."""


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
        self._refused = 0

    def run(self, stopping: threading.Event, flush_s: float) -> None:
        """Ship until `stopping` is set, and then what is left for at most `flush_s` seconds."""
        backoff_s, orphans_due_s = FIRST_BACKOFF_S, 0.0
        deadline_s = float("inf")
        while time.monotonic() < deadline_s:
            if stopping.is_set() and deadline_s == float("inf"):
                deadline_s = time.monotonic() + flush_s
            try:
                shipped = self._ship_one(self._folder, self._tail)
                if shipped is None:
                    if stopping.is_set():
                        return
                    if time.monotonic() >= orphans_due_s:
                        self._ship_orphans(stopping)
                        orphans_due_s = time.monotonic() + ORPHANS_EVERY_S
                # Full batches follow each other at once; under light load a pause gathers small ones.
                pause_s = 0.0 if stopping.is_set() or (shipped is not None and shipped.full) else self._interval_s
                backoff_s = FIRST_BACKOFF_S
            except Exception as error:  # noqa: BLE001 - whatever it was, the records are on disk and are tried again
                pause_s = FLUSH_RETRY_S if stopping.is_set() else backoff_s * random.uniform(0.7, 1.3)  # noqa: S311
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                log.warning(
                    "predictions cannot be shipped; trying again", error=type(error).__name__, in_s=round(pause_s, 1)
                )
                self._tell(failures=1, oldest_ms=self._told.oldest_ms)
            if stopping.is_set():
                time.sleep(pause_s)
            else:
                stopping.wait(pause_s)

    def _passed(self, number: int, end: int) -> None:
        self._position = (number, end)

    def _tell(self, *, shipped_rows: int = 0, failures: int = 0, oldest_ms: int | None = None) -> None:
        """Report, if there is anything new."""
        refused, self._refused = self._refused, 0
        progress = Progress(*self._position, shipped_rows, failures, refused, oldest_ms)
        if shipped_rows or failures or refused or progress != self._told:
            self._told = progress
            self._report(progress)

    def _ship_one(self, folder: Path, tail: Tail) -> Batch | None:
        batch = tail.next_batch(max_bytes=BATCH_BYTES, max_records=BATCH_RECORDS)
        if batch is None:
            self._tell()
            return None
        records = self._decode(folder, batch)
        if records:
            self._tell(oldest_ms=records[0].requested_ms)
            self._store_or_set_aside(folder, records)
        tail.pass_(batch)
        self._tell(
            shipped_rows=sum(record.rows for record in records), oldest_ms=records[-1].requested_ms if records else None
        )
        return batch

    def _ship_orphans(self, stopping: threading.Event) -> None:
        for folder in claim_orphans(self._spools):
            log.info("shipping the log of a process that is gone", folder=folder.path.name)
            tail = Tail(folder.path, sealed_below=ALL, passed=_remover(folder.path))
            while not stopping.is_set() and self._ship_one(folder.path, tail) is not None:
                pass

    def _decode(self, folder: Path, batch: Batch) -> list[Logged]:
        records = []
        for payload in batch.payloads:
            try:
                records.append(decode(payload))
            except ValueError as error:
                self._set_aside(folder, payload, str(error))
        return records

    def _store_or_set_aside(self, folder: Path, records: list[Logged]) -> None:
        try:
            self._store(records)
        except RecordRefused:
            # One bad record must not hold up the others: find it by storing each alone.
            for record in records:
                self._store_alone(folder, record)

    def _store_alone(self, folder: Path, record: Logged) -> None:
        try:
            try:
                self._store([record])
            except RecordRefused:
                self._store([plainer(record)])
        except (RecordRefused, ValueError) as error:
            self._set_aside(folder, record.document, str(error))

    def _set_aside(self, folder: Path, payload: bytes, reason: str) -> None:
        log.error("a logged prediction cannot be stored and is set aside", file=REFUSED_FILE, reason=reason)
        self._refused += 1
        with (folder / REFUSED_FILE).open("ab") as file:
            file.write(payload + b"\n")


def _remover(folder: Path) -> Callable[[int, int], None]:
    """For a folder that nobody writes: a segment goes as soon as all of it is of no more use."""

    def passed(number: int, end: int) -> None:
        for path in folder.glob(SEGMENTS):
            if int(path.stem) == number and end >= path.stat().st_size:
                path.unlink()

    return passed
