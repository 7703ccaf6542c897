"""Follows the registry: reads it every second and whenever it says that a deployment changed, and drives the slots towards it.

When the registry is away, the last reading stays in force; it also lies on disk, for a start without the registry.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from services.serving.models import state_file
from services.serving.models.catalogue import Catalogue, Pipeline
from services.serving.models.slots import ModelSlots
from shared.errors import NotFound, Unavailable

log = structlog.stdlib.get_logger(__name__)

SAVE_EVERY_S = 60.0
"""The saved state is renewed this often even when nothing changed: its time says how fresh the knowledge is."""

ANSWERING_S = 10.0
"""A registry that was last read longer ago than this does not answer."""

Read = Callable[[Catalogue], Catalogue]
"""Reads the registry, given what is known; blocks; raises whatever a driver raises."""


class Follower:
    """The thread, and the catalogue it keeps."""

    def __init__(
        self,
        read: Read,
        slots: ModelSlots,
        folder: Path,
        *,
        poll_s: float,
        saved: Callable[[], None] = lambda: None,
        prepare: Callable[[Pipeline], None] = lambda _: None,
        also: Callable[[Catalogue], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is read before `start`.

        Args:
            read: reads the registry.
            slots: what is driven.
            folder: where the catalogue is kept for the next start.
            poll_s: time between two readings.
            saved: called after the catalogue was written: the moment to tidy up what it does not need.
            prepare: called for each pipeline of a reading before anything answers by it.
            also: what else follows the catalogue; called as often as the slots are driven, and must not block.
        """
        self._read = read
        self._slots = slots
        self._folder = folder
        self._poll_s = poll_s
        self._poll_due_s = 0.0
        self._after_save = saved
        self._prepare = prepare
        self._also = also
        self._catalogue = Catalogue()
        self._known = False
        self._read_at_s: float | None = None
        self._saved: tuple[float, Catalogue] | None = None
        self._stopping = threading.Event()
        self._stale_generations: set[str] = set()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    @property
    def catalogue(self) -> Catalogue:
        """What is known of the registry."""
        return self._catalogue

    @property
    def known(self) -> bool:
        """Whether the registry was read, now or by an earlier process."""
        return self._known

    @property
    def age_s(self) -> float | None:
        """Time since the registry was last read; None when it never was."""
        return None if self._read_at_s is None else max(0.0, time.monotonic() - self._read_at_s)

    def pipeline(self, name: str) -> Pipeline:
        """One pipeline.

        Raises:
            NotFound: none of that name is known here.
        """
        found = self._catalogue.pipelines.get(name)
        if found is None:
            raise NotFound("There is no pipeline of that name.")
        return found

    def start(self) -> None:
        """Take up what an earlier process knew, then begin to follow."""
        if (saved := state_file.load(self._folder)) is not None:
            catalogue, read_at = saved
            self._prepare_all(catalogue)
            self._catalogue = catalogue
            self._known = True
            self._read_at_s = time.monotonic() - max(0.0, (datetime.now(UTC) - read_at).total_seconds())
            self._advance()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a reading in flight is waited for, for a moment."""
        self._stopping.set()
        self._slots.changed.set()
        self._thread.join(timeout=5)

    def wake(self) -> None:
        """Read soon instead of at the next poll."""
        self._poll_due_s = 0.0
        self._slots.changed.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._slots.changed.clear()
            if time.monotonic() >= self._poll_due_s:
                self._poll_due_s = time.monotonic() + self._poll_s
                self._refresh()
            self._advance()
            self._slots.changed.wait(max(0.0, self._poll_due_s - time.monotonic()))

    def _refresh(self) -> None:
        began_s = time.monotonic()
        try:
            catalogue = self._read(self._catalogue)
        except Exception as error:  # noqa: BLE001 - any failure means: go on with what is known
            if not self._failing:
                log.warning("the registry cannot be read; going on with what is known", error=type(error).__name__)
            self._failing = True
            return
        if self._failing:
            log.info("the registry is read again")
        self._failing = False
        self._prepare_all(catalogue)
        self._catalogue, self._known, self._read_at_s = catalogue, True, began_s
        self._save_if_due()

    def _prepare_all(self, catalogue: Catalogue) -> None:
        for pipeline in catalogue.pipelines.values():
            try:
                self._prepare(pipeline)
            except Exception:  # one pipeline's trouble is not the others'
                log.exception("a pipeline could not be prepared; trying again", model=pipeline.name)

    def _advance(self) -> None:
        for pipeline in self._catalogue.pipelines.values():
            try:
                self._warn_of_older(pipeline)
                self._slots.advance(pipeline)
            except Exception:  # one pipeline's trouble is not the others'
                log.exception("a pipeline could not be brought up to date; trying again", model=pipeline.name)
        try:
            self._also(self._catalogue)
        except Exception:
            log.exception("what follows the registry beside the models could not be brought up to date; trying again")

    def _warn_of_older(self, pipeline: Pipeline) -> None:
        applied = self._slots.applied(pipeline.name)
        older = (
            applied is not None and pipeline.pointer is not None and pipeline.pointer.generation < applied.generation
        )
        if older and pipeline.name not in self._stale_generations:
            log.error(
                "the registry names an older generation than the one applied here; it is not applied",
                model=pipeline.name,
            )
        (self._stale_generations.add if older else self._stale_generations.discard)(pipeline.name)

    def _save_if_due(self) -> None:
        now_s = time.monotonic()
        if self._saved is not None and self._saved[1] == self._catalogue and now_s - self._saved[0] < SAVE_EVERY_S:
            return
        try:
            state_file.save(self._folder, self._catalogue, datetime.now(UTC))
            self._saved = (now_s, self._catalogue)
            self._after_save()
        except OSError as error:
            log.warning("the state cannot be saved for the next start", error=type(error).__name__)

    # For readiness

    def check_live(self) -> None:
        """Raises Unavailable unless every deployed pipeline answers here."""
        if not self._known:
            raise Unavailable("the registry has not been read yet")
        silent = [
            pipeline.name
            for pipeline in self._catalogue.pipelines.values()
            if pipeline.pointer is not None and self._slots.applied(pipeline.name) is None
        ]
        if silent:
            raise Unavailable(f"{len(silent)} deployed model(s) are not loaded yet: {', '.join(sorted(silent)[:5])}")

    def check_canaries(self) -> None:
        """Raises Unavailable unless every canary answers here; where one does not, the live version answers in its stead."""
        missing = []
        for pipeline in self._catalogue.pipelines.values():
            applied = self._slots.applied(pipeline.name)
            wanted = None if pipeline.pointer is None else pipeline.pointer.canary
            if wanted is not None and applied is not None and applied.canary != wanted:
                missing.append(f"version {wanted.version} of {pipeline.name}")
        if missing:
            raise Unavailable(f"{len(missing)} canaries do not answer here: {', '.join(sorted(missing)[:5])}")

    def check_answering(self) -> None:
        """Raises Unavailable when the registry did not answer the last time, or has not for several polls."""
        if self._failing:
            raise Unavailable("The registry does not answer at the moment; try again shortly.")
        self.check_fresh(max(ANSWERING_S, 5 * self._poll_s))

    def check_fresh(self, limit_s: float) -> None:
        """Raises Unavailable when the registry was last read longer ago than `limit_s`."""
        age_s = self.age_s
        if age_s is None or age_s > limit_s:
            when = "never" if age_s is None else f"last {age_s:.0f} s ago"
            raise Unavailable(f"The registry was {when} read; it does not answer. Try again shortly.")
