"""Moves logged predictions from the spool to Postgres, in a thread; each leaves the disk only after its commit."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from services.serving import metrics
from services.serving.prediction_log.folder import claim_orphans
from services.serving.prediction_log.record import Logged, decode, plainer
from services.serving.prediction_log.spool import Batch, Spool

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


class Shipper:
    """The thread. It also empties the folders of processes that are gone."""

    def __init__(self, spools: Path, folder: Path, spool: Spool, store: Store, *, interval_s: float) -> None:
        """Prepare; nothing happens before `start`.

        Args:
            spools: the folder with the folders of all processes.
            folder: the one this process holds.
            spool: the segments in it.
            store: where records go.
            interval_s: time between two batches under light load.
        """
        self._spools = spools
        self._folder = folder
        self._spool = spool
        self._store = store
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._deadline_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="log-shipper", daemon=True)
        self.oldest: datetime | None = None
        """When the oldest prediction that is being shipped was made; None when nothing waits."""

    @property
    def lag_s(self) -> float:
        """Age of the oldest prediction that is being shipped; 0 when nothing waits."""
        oldest = self.oldest
        return 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def stop(self, flush_s: float) -> None:
        """Ship what is left for at most `flush_s` seconds, then end. What remains is shipped by the next process."""
        self._deadline_s = time.monotonic() + flush_s
        self._stopping.set()
        self._spool.appended.set()
        self._thread.join(flush_s + 1)

    def _run(self) -> None:
        backoff_s, orphans_due_s = FIRST_BACKOFF_S, 0.0
        while time.monotonic() < self._deadline_s:
            try:
                if self._ship_one(self._folder, self._spool):
                    # Full batches follow each other at once; under light load a pause gathers small ones.
                    pause_s = 0.0 if self._spool.waiting_bytes > BATCH_BYTES else self._interval_s
                elif self._stopping.is_set():
                    return
                else:
                    self.oldest = None
                    if time.monotonic() >= orphans_due_s:
                        self._ship_orphans()
                        orphans_due_s = time.monotonic() + ORPHANS_EVERY_S
                    self._spool.appended.wait(1.0)
                    pause_s = self._interval_s
                backoff_s = FIRST_BACKOFF_S
            except Exception as error:  # noqa: BLE001 - whatever it was, the records are on disk and are tried again
                pause_s = backoff_s * random.uniform(0.7, 1.3)  # noqa: S311 - jitter, no secret
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                metrics.SHIP_FAILURES.inc()
                log.warning(
                    "predictions cannot be shipped; trying again", error=type(error).__name__, in_s=round(pause_s, 1)
                )
            if self._stopping.is_set():
                time.sleep(min(pause_s, FLUSH_RETRY_S))
            else:
                self._stopping.wait(pause_s)

    def _ship_one(self, folder: Path, spool: Spool) -> bool:
        batch = spool.next_batch(max_bytes=BATCH_BYTES, max_records=BATCH_RECORDS)
        if batch is None:
            return False
        records = self._decode(folder, batch)
        if records:
            self.oldest = records[0].requested_at
            self._store_or_set_aside(folder, records)
        spool.shipped(batch)
        metrics.SHIPPED.inc(sum(record.rows for record in records))
        return True

    def _ship_orphans(self) -> None:
        for folder in claim_orphans(self._spools):
            log.info("shipping the log of a process that is gone", folder=folder.path.name)
            spool = Spool(folder.path, limit_bytes=0)
            while not self._stopping.is_set() and self._ship_one(folder.path, spool):
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
        metrics.LOG_REFUSED.inc()
        with (folder / REFUSED_FILE).open("ab") as file:
            file.write(payload + b"\n")
