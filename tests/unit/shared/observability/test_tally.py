"""What a tally counts is in its metric whenever somebody looks, once."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Summary

from shared.observability.tally import CountTally, HistogramTally, SummaryTally, Tallies


@pytest.fixture
def tallies() -> Iterator[Tallies]:
    made = Tallies()
    yield made
    REGISTRY.unregister(made)


@pytest.fixture
def metrics() -> Iterator[list[Counter | Gauge | Histogram | Summary]]:
    made: list[Counter | Gauge | Histogram | Summary] = []
    yield made
    for metric in made:
        REGISTRY.unregister(metric)


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_counter_and_a_gauge(tallies: Tallies, metrics: list[object]) -> None:
    counter, gauge = Counter("tally_things", "x", ["kind"]), Gauge("tally_sum", "x")
    metrics += [counter, gauge]
    things = tallies.get("things", lambda: CountTally(counter.labels("a")))
    total = tallies.get("sum", lambda: CountTally(gauge))
    things.value += 3
    total.value -= 1.5
    assert (value("tally_things_total", kind="a"), value("tally_sum")) == (3, -1.5)
    assert value("tally_things_total", kind="a") == 3, "looking twice counts nothing twice"
    things.value += 1
    assert value("tally_things_total", kind="a") == 4
    assert tallies.get("things", lambda: CountTally(counter.labels("b"))) is things


def test_a_histogram_counts_as_prometheus_own(tallies: Tallies, metrics: list[object]) -> None:
    tallied, own = (Histogram(name, "x", buckets=(1, 2, 5)) for name in ("tally_seconds", "own_seconds"))
    metrics += [tallied, own]
    tally = tallies.get("seconds", lambda: HistogramTally(tallied))
    for observed in (0, 1, 1.5, 2, 5, 5.01, 100):
        tally.observe(observed)
        own.observe(observed)
        assert value("tally_seconds_sum") == value("own_seconds_sum")
    for bound in ("1.0", "2.0", "5.0", "+Inf"):
        assert value("tally_seconds_bucket", le=bound) == value("own_seconds_bucket", le=bound)
    assert value("tally_seconds_count") == 7


def test_a_summary(tallies: Tallies, metrics: list[object]) -> None:
    summary = Summary("tally_bytes", "x")
    metrics.append(summary)
    tally = tallies.get("bytes", lambda: SummaryTally(summary))
    tally.count, tally.total = 2, 15
    assert (value("tally_bytes_count"), value("tally_bytes_sum")) == (2, 15)


def test_a_forgotten_tally_moves_nothing_more(tallies: Tallies, metrics: list[object]) -> None:
    counter = Counter("tally_gone", "x", ["version"])
    metrics.append(counter)
    tally = tallies.get("gone", lambda: CountTally(counter.labels("1")))
    tally.value += 1
    assert value("tally_gone_total", version="1") == 1
    tallies.forget("gone")
    counter.remove("1")
    tally.value += 1
    assert value("tally_gone_total", version="1") is None
