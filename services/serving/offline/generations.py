"""The generations that this replica answers from: fetched, verified and mapped in a thread, then switched at once.

A lookup takes the generation once and goes on with it; the old one's files stay mapped until nobody holds it.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from services.serving import metrics
from services.serving.models.catalogue import Catalogue, Offline
from services.serving.models.loader import forget_others
from shared.artifacts import ArtifactStore
from shared.errors import RelevoError

if TYPE_CHECKING:
    from services.serving.offline.generation import Generation

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0


@dataclass(slots=True)
class _Trouble:
    """A generation that could not be opened."""

    digest: str
    times: int
    again_s: float
    """By `time.monotonic`."""


class Generations:
    """One open generation a pipeline, at most."""

    def __init__(self, store: ArtifactStore, cache: Path) -> None:
        """Prepare.

        Args:
            store: where the files are.
            cache: folder for verified copies of files that are far away.
        """
        self._store = store
        self._cache = cache
        self._open: dict[str, Generation] = {}
        self._trouble: dict[str, _Trouble] = {}
        self._opening: set[str] = set()
        self._wanted: dict[str, Offline] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generations")

    def get(self, pipeline: str) -> "Generation | None":
        """The generation that answers for a pipeline here; hold it for as long as a request needs it."""
        return self._open.get(pipeline)

    def follow(self, catalogue: Catalogue) -> None:
        """Begin to open what the catalogue names and is not open yet. Blocks for nothing."""
        self._wanted = {name: found.offline for name, found in catalogue.pipelines.items() if found.offline is not None}
        for name, pipeline in catalogue.pipelines.items():
            if pipeline.offline is not None and self._is_due(name, pipeline.offline):
                self._opening.add(name)
                self._thread.submit(self._switch, name, pipeline.offline)

    def close(self) -> None:
        """Open no more; what is being opened is waited for."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._open.clear()

    def _is_due(self, name: str, wanted: Offline) -> bool:
        with self._lock:
            now, trouble = self._open.get(name), self._trouble.get(name)
            if name in self._opening or (now is not None and now.offline.number >= wanted.number):
                return False
            return trouble is None or trouble.digest != wanted.digest or time.monotonic() >= trouble.again_s

    def _switch(self, name: str, wanted: Offline) -> None:
        from services.serving.offline.generation import (
            open_generation,
        )  # Arrow is large: only who has generations loads it

        try:
            generation = open_generation(self._store, wanted, self._cache)
        except Exception as error:  # noqa: BLE001 - the generation before goes on answering
            self._failed(name, wanted, error)
            return
        with self._lock:
            self._open[name] = generation
            self._trouble.pop(name, None)
            self._opening.discard(name)
        metrics.OFFLINE_GENERATION.labels(name).set(wanted.number)
        metrics.OFFLINE_COMPUTED_AT.labels(name).set(wanted.computed_at.timestamp())
        log.info("offline predictions switched", model=name, generation=wanted.number, rows=generation.manifest.rows)
        self._tidy()

    def _tidy(self) -> None:
        """Let go of cached copies, once all that is wanted is open: before, it is not known whose files they are."""
        opened = dict(self._open)
        if all(
            name in opened and opened[name].offline.digest == wanted.digest for name, wanted in self._wanted.items()
        ):
            forget_others(self._cache, {digest for one in opened.values() for digest in one.digests})

    def _failed(self, name: str, wanted: Offline, error: Exception) -> None:
        with self._lock:
            before = self._trouble.get(name)
            times = before.times + 1 if before and before.digest == wanted.digest else 1
            pause_s = min(FIRST_PAUSE_S * 2 ** min(times - 1, 10), LONGEST_PAUSE_S)
            self._trouble[name] = _Trouble(wanted.digest, times, time.monotonic() + pause_s)
            self._opening.discard(name)
        metrics.OFFLINE_FAILURES.labels(name).inc()
        reason = error.detail if isinstance(error, RelevoError) else type(error).__name__
        log.error(
            "offline predictions cannot be opened; trying again", model=name, generation=wanted.number, reason=reason
        )
