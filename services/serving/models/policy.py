"""What to do next so that the wanted version answers: pure, stateless, safe to ask again at any time.

Load before switch, switch before unload; the version that answers is never taken away; an older generation is never applied.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class SlotState(StrEnum):
    """One loaded, or not yet loaded, version."""

    LOADING = "loading"  #: being fetched, checked and warmed
    READY = "ready"  #: may answer
    DRAINING = "draining"  #: takes no new requests; those it has finish on it
    FAILED = "failed"  #: could not be loaded; tried again after a while


LOADED = (SlotState.READY, SlotState.DRAINING)
"""States in which the model is in memory and warm: a draining one that is wanted again need not be loaded again."""


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot as the policy sees it."""

    version: int
    state: SlotState
    in_flight: int = 0
    retry_at_s: float = 0.0
    """FAILED only: when it may be tried again, monotonic."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the registry's pointer says."""

    generation: int
    live: int
    previous: int | None = None
    """What was live before: kept loaded, so that rolling back is one switch."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What answers on this replica now."""

    generation: int
    live: int


@dataclass(frozen=True, slots=True)
class Load:
    """Fetch, check and warm a version."""

    version: int


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a version answer, as of a generation."""

    version: int
    generation: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Give a version no new requests."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Let go of a version."""

    version: int


Action = Load | Activate | Drain | Unload


def next_actions(
    wanted: Wanted | None, applied: Applied | None, slots: Sequence[SlotView], *, pinned: Collection[int], now_s: float
) -> list[Action]:
    """The steps that are due now, in order.

    Args:
        wanted: the pointer as last read; None when nothing is deployed.
        applied: what answers here; None before the first switch.
        slots: all versions of the pipeline that this replica holds.
        pinned: versions kept because callers name them.
        now_s: monotonic seconds.
    """
    by_version = {slot.version: slot for slot in slots}
    kept = {*pinned, *(() if applied is None else (applied.live,))}
    if wanted is None:
        return _retire(kept, slots)
    kept |= {wanted.live} if wanted.previous is None else {wanted.live, wanted.previous}
    if applied is None or wanted.generation > applied.generation:
        target = by_version.get(wanted.live)
        if target is not None and target.state in LOADED:
            # Nothing is retired in the same breath: the next look sees what the switch left behind.
            return [Activate(wanted.live, wanted.generation)]
        return _load(wanted.live, target, now_s) + _retire(kept, slots)
    if wanted.generation < applied.generation:
        return _retire(kept, slots)
    # In place: now there is time to have the previous version at hand.
    previous = [] if wanted.previous is None else _load(wanted.previous, by_version.get(wanted.previous), now_s)
    return previous + _retire(kept, slots)


def _load(version: int, slot: SlotView | None, now_s: float) -> list[Action]:
    due = slot is None or (slot.state is SlotState.FAILED and slot.retry_at_s <= now_s)
    return [Load(version)] if due else []


def _retire(kept: Collection[int], slots: Sequence[SlotView]) -> list[Action]:
    actions: list[Action] = []
    for slot in slots:
        if slot.version in kept or slot.state is SlotState.LOADING:
            continue
        if slot.state is SlotState.READY:
            actions.append(Drain(slot.version))
        elif slot.in_flight == 0:
            actions.append(Unload(slot.version))
    return actions
