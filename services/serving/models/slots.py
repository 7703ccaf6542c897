"""The versions this replica holds: leased by requests, loaded in threads, switched atomically as `policy` decides.

A request reads the live slot once, under its lease; a switch in the next moment cannot touch it. All state is behind one lock
that is held for moments only, never while something loads.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import structlog

from services.serving import metrics
from services.serving.errors import NotLoadable
from services.serving.models.catalogue import Pipeline
from services.serving.models.letting_go import let_go
from services.serving.models.loader import Loaded, refit
from services.serving.models.policy import (
    LOADED,
    Activate,
    Applied,
    Drain,
    Load,
    SlotState,
    Unload,
    Wanted,
    next_actions,
)
from services.serving.models.slot import Group, Lease, Slot, SlotReport
from services.serving.roles import Role
from shared.errors import RelevoError

log = structlog.stdlib.get_logger(__name__)

LOAD_THREADS = 2
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0
MAX_STEPS = 16

LoadVersion = Callable[[Pipeline, int], Loaded]


class ModelSlots:
    """All slots of all pipelines."""

    def __init__(self, load: LoadVersion, *, pinned_limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            load: loads one version, in a thread.
            pinned_limit: most versions of a pipeline kept loaded because callers name them.
            clock: monotonic seconds.
        """
        self._load = load
        self._pinned_limit = pinned_limit
        self._clock = clock
        self._lock = threading.RLock()
        self._groups: dict[str, Group] = {}
        self._pool = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="model-load")
        self.changed = threading.Event()
        """Set when a load has ended: the policy has something to decide."""

    def close(self) -> None:
        """Let the loading threads end with what they are loading."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # For requests

    def lease_live(self, name: str) -> Lease | None:
        """The version that answers; None when none does."""
        with self._lock:
            group = self._groups.get(name)
            if group is None or (applied := group.applied) is None:
                return None
            slot = group.slots[applied.live]
            assert slot.loaded is not None
            slot.in_flight += 1
            lease = Lease(slot, slot.loaded, applied.generation, Role.LIVE, self._release)
            lease.canary, lease.shadow = applied.canary, applied.shadow
            return lease

    def lease_canary(self, live: Lease) -> Lease | None:
        """The canary of the generation that a live lease is of; None when it is gone by now."""
        with self._lock:
            canary = live.canary
            slot = None if canary is None else self._groups[live.loaded.pipeline_name].slots.get(canary.version)
            if slot is None or slot.loaded is None:
                return None
            slot.in_flight += 1
            return Lease(slot, slot.loaded, live.generation, Role.CANARY, self._release)

    def lease_pinned(self, name: str, number: int) -> Lease | None:
        """A version by number, if it is loaded; it then stays loaded as one that callers name."""
        with self._lock:
            group = self._groups.setdefault(name, Group())
            lease = self._hold(group, number)
            if lease is not None:
                group.pinned[number] = None
                group.pinned.move_to_end(number)
                while len(group.pinned) > self._pinned_limit:
                    group.pinned.popitem(last=False)
            return lease

    def hold(self, name: str, number: int) -> Lease | None:
        """A version by number, if it is loaded; unloading waits until the lease ends."""
        with self._lock:
            return self._hold(self._groups.setdefault(name, Group()), number)

    @contextmanager
    def reserve(self, name: str, number: int) -> Iterator[None]:
        """Keep a version from being retired while the block lasts: between the end of its loading and its lease."""
        with self._lock:
            reserved = self._groups.setdefault(name, Group()).reserved
            reserved[number] += 1
        try:
            yield
        finally:
            with self._lock:
                reserved[number] -= 1
                if reserved[number] == 0:
                    del reserved[number]

    def _hold(self, group: Group, number: int) -> Lease | None:
        slot = group.slots.get(number)
        if slot is None or slot.loaded is None:
            return None
        if slot.state is SlotState.DRAINING:
            slot.state = SlotState.READY
        slot.in_flight += 1
        return Lease(slot, slot.loaded, group.applied.generation if group.applied else 0, Role.PINNED, self._release)

    def _release(self, slot: Slot) -> None:
        with self._lock:
            slot.in_flight -= 1
            if slot.in_flight == 0 and slot.state is SlotState.DRAINING:
                self.changed.set()

    # For whoever decides

    def begin_load(self, pipeline: Pipeline, number: int, *, retry_now: bool = False) -> "Future[None]":
        """Have a version loaded: done when it is, or at once when it was. Callers at the same time share one load.

        The future fails as loading did (NotLoadable, Unavailable, NotFound). One that failed a moment ago fails at once, unless
        `retry_now`.
        """
        with self._lock:
            group = self._groups.setdefault(pipeline.name, Group())
            slot = group.slots.setdefault(number, Slot(number))
            if slot.loading is not None:
                return slot.loading
            if slot.state in LOADED:
                return _done(None)
            if slot.error is not None and not retry_now and slot.retry_at_s > self._clock():
                return _done(slot.error)
            slot.state = SlotState.LOADING
            slot.loading = self._pool.submit(self._load_into, slot, pipeline)
            return slot.loading

    def _load_into(self, slot: Slot, pipeline: Pipeline) -> None:
        began = time.monotonic()
        name, number = pipeline.name, slot.version
        try:
            loaded = self._load(pipeline, number)
        except Exception as error:
            known = error if isinstance(error, RelevoError) else _unforeseen(name, number, error)
            with self._lock:
                slot.state, slot.error, slot.loading = SlotState.FAILED, known, None
                slot.retry_at_s = self._clock() + min(FIRST_RETRY_S * 2**slot.failures, MAX_RETRY_S)
                slot.failures = min(slot.failures + 1, 10)
            metrics.LOAD_FAILURES.labels(name).inc()
            log.error("a model version could not be loaded", model=name, version=number, reason=known.detail)
            raise known from error
        else:
            with self._lock:
                slot.state, slot.loaded, slot.loading = SlotState.READY, loaded, None
                slot.error, slot.failures = None, 0
            metrics.LOAD_SECONDS.observe(time.monotonic() - began)
            log.info("model version loaded", model=name, version=number, seconds=round(loaded.load_s, 3))
        finally:
            self.changed.set()

    def advance(self, pipeline: Pipeline) -> None:
        """Take the steps that the pipeline's pointer asks for now; what must be loaded is loaded in the background."""
        pointer = pipeline.pointer
        wanted = None
        if pointer is not None:
            wanted = Wanted(pointer.generation, pointer.live, pointer.previous, pointer.canary, pointer.shadow)
        self._refit(pipeline)
        for _ in range(MAX_STEPS):
            with self._lock:
                group = self._groups.setdefault(pipeline.name, Group())
                views = [slot.view() for slot in group.slots.values()]
                kept = {*group.pinned, *group.reserved}
                actions = next_actions(wanted, group.applied, views, pinned=kept, now_s=self._clock())
                for action in actions:
                    match action:
                        case Load(version):
                            self.begin_load(pipeline, version)
                        case Activate(applied):
                            self._activate(pipeline, group, applied)
                        case Drain(version):
                            group.slots[version].state = SlotState.DRAINING
                        case Unload(version):
                            metrics.forget_version(pipeline.name, version)
                            slot = group.slots.pop(version)
                            if slot.loaded is not None:
                                log.info("model version unloaded", model=pipeline.name, version=version)
                                self._pool.submit(let_go, slot)
            if not actions:
                break
        metrics.tell_missing(pipeline, group.applied)

    def _refit(self, pipeline: Pipeline) -> None:
        with self._lock:
            group = self._groups.setdefault(pipeline.name, Group())
            stale = [
                (slot, slot.loaded)
                for slot in group.slots.values()
                if slot.loaded is not None and slot.loaded.current_spec != pipeline.spec_version
            ]
        for slot, loaded in stale:
            slot.loaded = refit(loaded, pipeline)

    def _activate(self, pipeline: Pipeline, group: Group, applied: Applied) -> None:
        for version in applied.versions:
            group.slots[version].state = SlotState.READY
        before, group.applied = group.applied, applied
        metrics.tell_applied(pipeline, applied)
        if before is None or before.live != applied.live:
            metrics.SWAPS.labels(pipeline.name).inc()
        log.info(
            "model version answers now",
            model=pipeline.name,
            version=applied.live,
            generation=applied.generation,
            before=before and before.live,
            canary=applied.canary and (applied.canary.version, applied.canary.share),
            shadow=applied.shadow and (applied.shadow.version, applied.shadow.share),
        )
        generation = applied.generation
        due = [future for wanted, future in group.waiting if wanted <= generation]
        group.waiting = [(wanted, future) for wanted, future in group.waiting if wanted > generation]
        for future in due:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def applied(self, name: str) -> Applied | None:
        """What answers for a pipeline on this replica."""
        with self._lock:
            group = self._groups.get(name)
            return None if group is None else group.applied

    def when_applied(self, name: str, generation: int) -> "Future[None]":
        """Done when this replica has applied the generation or a later one."""
        future: Future[None] = Future()
        with self._lock:
            group = self._groups.setdefault(name, Group())
            if group.applied is not None and group.applied.generation >= generation:
                future.set_result(None)
            else:
                group.waiting.append((generation, future))
        return future

    def report(self, name: str) -> list[SlotReport]:
        """All slots of a pipeline, by version."""
        with self._lock:
            return (self._groups.get(name) or Group()).report()

    def held(self) -> set[tuple[str, int]]:
        """Pipeline and number of every version that is loaded, or is to be."""
        with self._lock:
            return {(name, version) for name, group in self._groups.items() for version in group.slots}

    def digests(self) -> set[str]:
        """The artifacts of everything loaded."""
        with self._lock:
            return {digest for slot in self._all() if slot.loaded is not None for digest in slot.loaded.version.digests}

    def _all(self) -> Iterable[Slot]:
        return [slot for group in self._groups.values() for slot in group.slots.values()]


def _done(error: RelevoError | None) -> "Future[None]":
    future: Future[None] = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future


def _unforeseen(name: str, number: int, error: Exception) -> NotLoadable:
    return NotLoadable(f"Version {number} of {name} cannot be loaded ({type(error).__name__}); the log has more.")
