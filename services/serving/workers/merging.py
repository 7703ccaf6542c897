"""The metrics of several processes as one: what each exports, what the ended ones had counted, and the sum of it all.

Counters, histograms and summaries are summed and never go backwards: what a process had counted is kept when it ends, and when it
drops a series that others still export. Gauges are taken together as they were declared to be, by the words of prometheus_client's
`multiprocess_mode`: `livesum` what the living ones have, `livemin` and `livemax` their least and most, `sum` what counts on like a
counter, `liveall` each one's own with a label `worker`. One that does not say counts as `livemax`: an age is that of the worst.
"""

import itertools
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from shared.observability.tally import Stands

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
Held = list[tuple[str, str]]
"""Pipeline and number of versions."""

SUMMED = ("counter", "histogram", "summary")
OF_PROCESS = {
    "process_virtual_memory_bytes": "livesum",
    "process_resident_memory_bytes": "livesum",
    "process_open_fds": "livesum",
    "process_max_fds": "livemin",
    "process_start_time_seconds": "livemin",
}
"""How prometheus_client's own gauges of a process are taken together."""
CREATED = "_created"
WORKER = "worker"
MODEL, VERSION = "model", "version"
"""A series with these labels lasts as long as some process holds the version; all others last."""


class Family(msgspec.Struct, array_like=True, frozen=True):
    """All series of one metric in one process."""

    name: str
    kind: str
    help: str
    mode: str
    """`sum`, or what shows of the living ones' values: `livesum`, `livemin`, `livemax`, `liveall`."""
    samples: list[tuple[str, Labels, float]]


class Counted(msgspec.Struct, array_like=True, frozen=True):
    """What one tally has counted."""

    stands: Stands
    values: list[float]


def families(registry: CollectorRegistry) -> list[Family]:
    """What this process exports now."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            _mode(registry, metric),
            [(sample.name, tuple(sample.labels.items()), sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class Ledger:
    """The last that every living process told, and what the others had counted."""

    def __init__(self) -> None:
        self._living: dict[str, list[Family]] = {}
        self._known: dict[str, Family] = {}
        """Each metric that was ever told, without samples."""
        self._kept: dict[str, dict[Series, float]] = {}
        """By metric: what ended processes counted, and living ones in series that they dropped."""
        self._moved: dict[str, dict[Stands, list[float]]] = {}
        self._held: dict[str, Held | None] = {}

    def begin(self, process: str) -> None:
        """A process is started; until it tells what it holds, no version is let go of."""
        self._held[process] = None

    def tell(
        self, process: str, told: list[Family], moved: list[Counted] | None = None, held: Held | None = None
    ) -> None:
        """A process exports this now.

        Args:
            moved: what it shows of what its tallies counted.
            held: the versions it holds; None while it cannot tell.
        """
        self._held[process] = held
        self._moved[process] = {counted.stands: counted.values for counted in moved or ()}
        now = {sample[:2] for family in told for sample in family.samples}
        self._keep(self._living.get(process, []), now)
        self._living[process] = told
        for family in told:
            self._know(msgspec.structs.replace(family, samples=[]))

    def ended(self, process: str, counted: list[Counted] | None = None) -> None:
        """A process is gone.

        Args:
            counted: what its tallies had counted in the end, which is more than it told last.
        """
        self._keep(self._living.pop(process, []), set())
        self._held.pop(process, None)
        moved = self._moved.pop(process, {})
        for last in counted or ():
            told = moved.get(last.stands)
            if told is None or _began_anew(last, told):
                told = [0.0] * len(last.values)
            more = [value - before for value, before in zip(last.values, told, strict=True)]
            if any(more):
                self._keep([_as_family(last.stands, more)], set())

    def merged(self) -> list[Family]:
        """All as one. Lets go of what is kept of a version that no living process holds any more."""
        self._forget_versions()
        values: dict[str, dict[Series, float]] = {name: {} for name in self._known}
        for process, told in self._living.items():
            for family in told:
                own = ((WORKER, process),) if family.mode == "liveall" else ()
                for name, labels, value in family.samples:
                    _add(values[family.name], family, (name, labels + own), value)
        for name, kept in self._kept.items():
            for series, value in kept.items():
                _add(values[name], self._known[name], series, value)
        return [
            msgspec.structs.replace(known, samples=[(*series, value) for series, value in values[name].items()])
            for name, known in self._known.items()
        ]

    def _forget_versions(self) -> None:
        held = set()
        for versions in self._held.values():
            if versions is None:
                return
            held.update(versions)
        for kept in self._kept.values():
            for series in [series for series in kept if (version := _version(series)) and version not in held]:
                del kept[series]

    def _know(self, family: Family) -> None:
        if family.name not in self._known or not self._known[family.name].help:
            self._known[family.name] = family
            self._kept.setdefault(family.name, {})

    def _keep(self, told: list[Family], but: set[Series]) -> None:
        for family in told:
            if family.mode == "sum":
                self._know(msgspec.structs.replace(family, samples=[]))
                for name, labels, value in family.samples:
                    if (name, labels) not in but:
                        _add(self._kept[family.name], family, (name, labels), value)


def exposition(merged: list[Family]) -> bytes:
    """Prometheus' text format."""
    return generate_latest(cast("CollectorRegistry", _Shown(merged)))


class _Shown(Collector):
    """As a registry shows itself to `generate_latest`."""

    def __init__(self, merged: list[Family]) -> None:
        self._merged = merged

    def collect(self) -> Iterator[Metric]:
        for family in self._merged:
            metric = Metric(family.name, family.help, family.kind)
            metric.samples = [Sample(name, dict(labels), value) for name, labels, value in family.samples]
            yield metric


def _mode(registry: CollectorRegistry, metric: Metric) -> str:
    if metric.type in SUMMED:
        return "sum"
    collector: Any = registry._names_to_collectors.get(metric.name)
    mode = str(OF_PROCESS.get(metric.name) or getattr(collector, "_multiprocess_mode", ""))
    return mode if mode in ("sum", "livesum", "livemin", "liveall") else "livemax"


def _began_anew(last: Counted, told: list[float]) -> bool:
    """Whether it stood before a series that was dropped and made again since. A gauge that sums may fall: it does not tell."""
    return last.stands.kind != "gauge" and any(value < before for value, before in zip(last.values, told, strict=True))


def _as_family(stands: Stands, values: list[float]) -> Family:
    name, labels = stands.name, stands.labels
    match stands.kind:
        case "counter":
            samples = [(f"{name}_total", labels, values[0])]
        case "gauge":
            samples = [(name, labels, values[0])]
        case "summary":
            samples = [(f"{name}_count", labels, values[0]), (f"{name}_sum", labels, values[1])]
        case _:
            *counts, total = values
            below = itertools.accumulate(counts)
            samples = [
                (f"{name}_bucket", (*labels, ("le", floatToGoString(bound))), number)
                for bound, number in zip(stands.bounds, below, strict=True)
            ]
            samples += [(f"{name}_count", labels, sum(counts)), (f"{name}_sum", labels, total)]
    return Family(name, stands.kind, "", "sum", samples)


def _add(values: dict[Series, float], family: Family, series: Series, value: float) -> None:
    before = values.get(series)
    if before is None:
        values[series] = value
    elif family.mode == "livemin" or series[0].endswith(CREATED):
        values[series] = min(before, value)
    else:
        values[series] = max(before, value) if family.mode == "livemax" else before + value


def _version(series: Series) -> tuple[str, str] | None:
    labels = dict(series[1])
    return (labels[MODEL], labels[VERSION]) if MODEL in labels and VERSION in labels else None
