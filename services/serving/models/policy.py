"""What to do next so that the wanted versions answer: pure, stateless, safe to ask again at any time.

Load before switch, switch before unload; a version that answers is never taken away; an older generation is never applied. A canary
or a shadow that cannot be loaded here holds up nothing: the live version answers in its stead until it can.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.serving.models.catalogue import Share


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
    canary: Share | None = None
    shadow: Share | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What answers on this replica now, all of it as of one generation."""

    generation: int
    live: int
    canary: Share | None = None
    """None, too, while it cannot be loaded here."""
    shadow: Share | None = None
    """None, too, while it is not loaded here."""

    @property
    def versions(self) -> set[int]:
        """All that have a part in it."""
        return {self.live, *(beside.version for beside in (self.canary, self.shadow) if beside is not None)}


@dataclass(frozen=True, slots=True)
class Load:
    """Fetch, check and warm a version."""

    version: int


@dataclass(frozen=True, slots=True)
class Activate:
    """Let this answer from now on."""

    applied: Applied


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
    kept = {*pinned, *(() if applied is None else applied.versions)}
    if wanted is None:
        return _retire(kept, slots)
    beside = [share.version for share in (wanted.canary, wanted.shadow) if share is not None]
    kept |= {wanted.live, *beside, *(() if wanted.previous is None else (wanted.previous,))}
    if applied is not None and wanted.generation < applied.generation:
        return _retire(kept, slots)
    target = Applied(wanted.generation, wanted.live, _held(wanted.canary, by_version), _held(wanted.shadow, by_version))
    if target != applied and _may_switch(wanted, applied, by_version):
        # Nothing is retired in the same breath: the next look sees what the switch left behind.
        return [Activate(target)]
    # The version before is loaded last: there is time when all else is in place.
    due = [wanted.live, *beside, *([wanted.previous] if wanted.previous is not None and target == applied else [])]
    loads = [load for version in due for load in _load(version, by_version.get(version), now_s)]
    return loads + _retire(kept, slots)


def _held(share: Share | None, slots: Mapping[int, SlotView]) -> Share | None:
    slot = None if share is None else slots.get(share.version)
    return share if slot is not None and slot.state in LOADED else None


def _may_switch(wanted: Wanted, applied: Applied | None, slots: Mapping[int, SlotView]) -> bool:
    """Whether the live version can answer and, unless nothing answers yet, loading the canary has come to an end."""
    live = slots.get(wanted.live)
    if live is None or live.state not in LOADED:
        return False
    if applied is None or wanted.canary is None:
        return True
    canary = slots.get(wanted.canary.version)
    return canary is not None and canary.state is not SlotState.LOADING


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
