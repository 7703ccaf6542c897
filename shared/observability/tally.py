"""Counting on a hot path: plain numbers that one thread adds to, moved into Prometheus' own metrics when somebody looks.

An increment of a labelled Prometheus metric costs a microsecond or two, several of them more than a small prediction. A tally costs
a tenth. It only grows and has one writer, so moving what was added since the last look loses nothing, whichever thread looks.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import prometheus_client as prometheus
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Stands:
    """Which metric a tally stands before, and so what its values mean."""

    name: str
    kind: str
    """`counter` or `gauge`: one value; `summary`: count and sum; `histogram`: each bucket's own count, then the sum."""
    labels: tuple[tuple[str, str], ...]
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, the infinite one included."""


class Tally(Protocol):
    """Stands before one metric: a labelled child, or one without labels."""

    @property
    def stands(self) -> Stands:
        """Before what."""

    @property
    def values(self) -> Sequence[float]:
        """All that was counted."""

    @property
    def moved(self) -> Sequence[float]:
        """What of it the metric shows."""

    def move(self) -> None:
        """Bring the metric up to date; never called twice at once."""


_SETS: "list[Tallies]" = []

T = TypeVar("T", bound=Tally)


class CountTally:
    """Stands before a counter, or a gauge that only sums up."""

    __slots__ = ("_metric", "_moved", "value")

    def __init__(self, metric: prometheus.Counter | prometheus.Gauge) -> None:
        self._metric = metric
        self._moved = 0.0
        self.value = 0.0
        """Add to it."""

    @property
    def stands(self) -> Stands:
        """As `Tally` says."""
        return _stands(self._metric)

    @property
    def values(self) -> Sequence[float]:
        """As `Tally` says."""
        return (self.value,)

    @property
    def moved(self) -> Sequence[float]:
        """As `Tally` says."""
        return (self._moved,)

    def move(self) -> None:
        """As `Tally` says."""
        value = self.value
        self._metric.inc(value - self._moved)
        self._moved = value


class SummaryTally:
    """Stands before a summary."""

    __slots__ = ("_count", "_metric", "_sum", "count", "total")

    def __init__(self, metric: prometheus.Summary) -> None:
        self._metric = metric
        self._count = self._sum = 0.0
        self.count = 0
        """Add 1 for each value."""
        self.total = 0.0
        """Add the value."""

    @property
    def stands(self) -> Stands:
        """As `Tally` says."""
        return _stands(self._metric)

    @property
    def values(self) -> Sequence[float]:
        """As `Tally` says."""
        return (self.count, self.total)

    @property
    def moved(self) -> Sequence[float]:
        """As `Tally` says."""
        return (self._count, self._sum)

    def move(self) -> None:
        """As `Tally` says. Prometheus' client has no way to add many observations at once but its own parts."""
        count, total = self.count, self.total
        self._metric._count.inc(count - self._count)
        self._metric._sum.inc(total - self._sum)
        self._count, self._sum = count, total


class HistogramTally:
    """Stands before a histogram."""

    __slots__ = ("_bounds", "_counts", "_metric", "_moved", "_moved_total", "_total")

    def __init__(self, metric: prometheus.Histogram) -> None:
        self._metric = metric
        self._bounds: Sequence[float] = metric._upper_bounds[:-1]
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0
        self._moved = self._counts[:]
        self._moved_total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    @property
    def stands(self) -> Stands:
        """As `Tally` says."""
        return _stands(self._metric, tuple(self._metric._upper_bounds))

    @property
    def values(self) -> Sequence[float]:
        """As `Tally` says."""
        return (*self._counts, self._total)

    @property
    def moved(self) -> Sequence[float]:
        """As `Tally` says."""
        return (*self._moved, self._moved_total)

    def move(self) -> None:
        """As `Tally` says; see `SummaryTally.move`."""
        counts, total = self._counts[:], self._total
        for bucket, count, moved in zip(self._metric._buckets, counts, self._moved, strict=True):
            if count != moved:
                bucket.inc(count - moved)
        self._metric._sum.inc(total - self._moved_total)
        self._moved, self._moved_total = counts, total


class Tallies(Collector):
    """A set of tallies. They are moved before any metric is collected that was made after this set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[Hashable, Tally] = {}
        prometheus.REGISTRY.register(self)
        _SETS.append(self)

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """The tally of that name, made when it is new; a name always goes with one kind of tally."""
        found = self._tallies.get(name)
        if found is None:
            with self._lock:
                found = self._tallies.setdefault(name, make())
        return found  # type: ignore[return-value]

    def forget(self, name: Hashable) -> None:
        """Drop a tally with what was not moved yet: its metric is removed."""
        with self._lock:
            self._tallies.pop(name, None)

    def all(self) -> list[Tally]:
        """Every tally."""
        with self._lock:
            return list(self._tallies.values())

    def collect(self) -> Iterator[Metric]:
        """Move everything; there is nothing of its own to show."""
        with self._lock:
            for tally in self._tallies.values():
                tally.move()
        return iter(())

    def describe(self) -> Iterator[Metric]:
        """Registering must not collect."""
        return iter(())


def all_tallies() -> list[Tally]:
    """Those of every set in this process."""
    return [tally for tallies in _SETS for tally in tallies.all()]


def _stands(metric: MetricWrapperBase, bounds: tuple[float, ...] = ()) -> Stands:
    labels = tuple((str(name), str(value)) for name, value in zip(metric._labelnames, metric._labelvalues, strict=True))
    return Stands(metric._name, str(metric._type), labels, bounds)
