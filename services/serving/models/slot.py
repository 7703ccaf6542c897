"""What `ModelSlots` keeps: the slots of a pipeline, and the lease that a request holds on one of them."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from services.serving.models.loader import Loaded
from services.serving.models.policy import Applied, SlotState, SlotView
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


@dataclass(frozen=True, slots=True)
class SlotReport:
    """A slot as shown to administrators."""

    version: int
    state: SlotState
    in_flight: int
    live: bool
    pinned: bool
    load_s: float | None
    error: str | None


class Lease:
    """The right to use one loaded version until the block ends."""

    __slots__ = ("_release", "_slot", "generation", "loaded", "pinned")

    def __init__(
        self, slot: Slot, loaded: Loaded, generation: int, pinned: bool, release: Callable[[Slot], None]
    ) -> None:
        self.loaded = loaded
        self.generation = generation
        """The deployment generation under which it answers; 0 when nothing is deployed."""
        self.pinned = pinned
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
