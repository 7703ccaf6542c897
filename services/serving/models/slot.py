"""What `ModelSlots` keeps: the slots of a pipeline, and the lease that a request holds on one of them."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from services.serving.models.catalogue import Share
from services.serving.models.loader import Loaded
from services.serving.models.policy import Applied, SlotState, SlotView
from services.serving.roles import Role
from shared.errors import RelevoError


@dataclass(slots=True)
class Slot:
    """One version that a replica holds, or tries to."""

    version: int
    state: SlotState = SlotState.LOADING
    loaded: Loaded | None = None
    in_flight: int = 0
    error: RelevoError | None = None
    failures: int = 0
    retry_at_s: float = 0.0
    loading: "Future[None] | None" = None

    def view(self) -> SlotView:
        """As the policy sees it."""
        return SlotView(self.version, self.state, self.in_flight, self.retry_at_s)


@dataclass(slots=True)
class Group:
    """The slots of one pipeline."""

    slots: dict[int, Slot] = field(default_factory=dict)
    applied: Applied | None = None
    pinned: "OrderedDict[int, None]" = field(default_factory=OrderedDict)
    """Versions that callers name, least recently used first."""
    reserved: Counter[int] = field(default_factory=Counter)
    """Versions that somebody is about to lease, by how many."""
    waiting: list[tuple[int, "Future[None]"]] = field(default_factory=list)
    """Who waits for a generation."""

    def report(self) -> "list[SlotReport]":
        """All slots, by version."""
        applied = self.applied
        canary, shadow = (applied.canary, applied.shadow) if applied else (None, None)
        return [
            SlotReport(
                version=slot.version,
                state=slot.state,
                in_flight=slot.in_flight,
                live=applied is not None and slot.version == applied.live,
                canary=canary is not None and slot.version == canary.version,
                shadow=shadow is not None and slot.version == shadow.version,
                pinned=slot.version in self.pinned,
                load_s=slot.loaded.load_s if slot.loaded else None,
                error=slot.error.detail if slot.error else None,
            )
            for slot in sorted(self.slots.values(), key=lambda slot: slot.version)
        ]


@dataclass(frozen=True, slots=True)
class SlotReport:
    """A slot as shown to administrators."""

    version: int
    state: SlotState
    in_flight: int
    live: bool
    canary: bool
    shadow: bool
    pinned: bool
    load_s: float | None
    error: str | None


class Lease:
    """The right to use one loaded version until the block ends."""

    __slots__ = ("_release", "_slot", "canary", "generation", "loaded", "role", "shadow")

    def __init__(
        self,
        slot: Slot,
        loaded: Loaded,
        generation: int,
        role: Role,
        release: Callable[[Slot], None],
    ) -> None:
        self.loaded = loaded
        self.generation = generation
        """The deployment generation under which it answers; 0 when nothing is deployed."""
        self.role = role
        self.canary: Share | None = None
        """Of the live version: what may answer in its stead, as of the same generation."""
        self.shadow: Share | None = None
        """Of the live version: what may score for comparison, as of the same generation."""
        self._slot = slot
        self._release = release

    def release(self) -> None:
        """End it; a block does so by itself."""
        self._release(self._slot)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
