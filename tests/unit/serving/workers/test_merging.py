"""Metrics of several processes as one: what is summed, what is kept of the dead, what goes with a version."""

import os
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.parser import text_string_to_metric_families

from services.serving.workers import last_words
from services.serving.workers.last_words import LastWords
from services.serving.workers.merging import Counted, Ledger, exposition, families
from shared.observability.tally import CountTally, HistogramTally, Stands, SummaryTally, Tally

HELD = ("delays", "1")


class Process:
    """One process's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here: Any = {"registry": self.registry}
        self.requests = Counter("requests", "Requests.", ["model", "version"], **here)
        self.swaps = Counter("swaps", "Swaps.", **here)
        self.seconds = Histogram("seconds", "Time.", buckets=(1, 2), **here)
        self.size = Summary("size", "Bytes.", **here)
        self.scores = Gauge("scores", "Sum of scores.", multiprocess_mode="sum", **here)
        self.waiting = Gauge("waiting", "Waiting.", multiprocess_mode="livesum", **here)
        self.age = Gauge("age", "Age.", **here)
        self.free = Gauge("free", "Free.", multiprocess_mode="livemin", **here)
        self.generation = Gauge("generation", "Generation.", multiprocess_mode="liveall", **here)

    def work(self, number: int) -> None:
        """Count so many of everything."""
        for _ in range(number):
            self.requests.labels("delays", "1").inc()
            self.swaps.inc()
            self.seconds.observe(1.5)
            self.size.observe(10)
        self.scores.inc(number / 2)
        for gauge in (self.waiting, self.age, self.free, self.generation):
            gauge.set(number)

    def tell(self, ledger: Ledger, name: str, held: list[tuple[str, str]] | None = None) -> None:
        """Tell all."""
        ledger.tell(name, families(self.registry), held=held)


def shown(ledger: Ledger) -> dict[str, float]:
    """What a scrape reads: `name{labels}` to value."""
    found = {}
    for family in text_string_to_metric_families(exposition(ledger.merged()).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def two(ledger: Ledger) -> tuple[Process, Process]:
    """Two that have counted 3 and 5."""
    one, other = Process(), Process()
    one.work(3)
    other.work(5)
    one.tell(ledger, "0")
    other.tell(ledger, "1")
    return one, other


def test_counts_are_summed_and_gauges_taken_as_declared(ledger: Ledger, two: tuple[Process, Process]) -> None:
    seen = shown(ledger)
    assert seen["requests_total{model=delays,version=1}"] == 8
    assert seen["seconds_bucket{le=1.0}"] == 0
    assert seen["seconds_bucket{le=2.0}"] == seen["seconds_bucket{le=+Inf}"] == seen["seconds_count"] == 8
    assert seen["seconds_sum"] == 12
    assert (seen["size_count"], seen["size_sum"]) == (8, 80)
    assert seen["scores"] == 4
    assert seen["waiting"] == 8
    assert seen["age"] == 5
    assert seen["free"] == 3
    assert (seen["generation{worker=0}"], seen["generation{worker=1}"]) == (3, 5)


def test_what_a_dead_process_counted_is_kept_and_its_gauges_go(ledger: Ledger, two: tuple[Process, Process]) -> None:
    ledger.ended("1")
    seen = shown(ledger)
    assert seen["requests_total{model=delays,version=1}"] == seen["seconds_count"] == seen["size_count"] == 8
    assert seen["scores"] == 4
    assert seen["waiting"] == seen["age"] == 3
    assert "generation{worker=1}" not in seen

    new = Process()
    new.work(2)
    new.tell(ledger, "1")
    assert shown(ledger)["requests_total{model=delays,version=1}"] == 10
    ledger.ended("1")
    assert shown(ledger)["requests_total{model=delays,version=1}"] == 10
    assert shown(ledger)["swaps_total"] == 10


def test_no_sum_goes_backwards_in_any_order_of_work_deaths_and_restarts(ledger: Ledger) -> None:
    processes = {"0": Process(), "1": Process()}
    last: dict[str, float] = {}
    for step in range(40):
        name = str(step % 2)
        processes[name].work(step % 3)
        processes[name].tell(ledger, name)
        if step % 7 == 6:
            ledger.ended(name)
            processes[name] = Process()
        seen = {key: value for key, value in shown(ledger).items() if key.split("{")[0].endswith(("total", "count"))}
        assert all(seen.get(key, 0) >= value for key, value in last.items())
        last = seen
    assert last["swaps_total"] == sum(step % 3 for step in range(40))


def test_a_series_that_one_drops_stays_as_long_as_another_holds_the_version(
    ledger: Ledger, two: tuple[Process, Process]
) -> None:
    one, other = two
    name = "requests_total{model=delays,version=1}"
    one.requests.remove("delays", "1")
    one.tell(ledger, "0", held=[])
    other.tell(ledger, "1", held=[HELD])
    assert shown(ledger)[name] == 8, "a counter does not go backwards"
    ledger.ended("1")
    assert name not in shown(ledger), "nobody holds the version any more"
    one.work(1)
    one.tell(ledger, "0", held=[HELD])
    assert shown(ledger)[name] == 1, "loaded again, from 0"


def test_while_one_cannot_tell_yet_what_it_holds_no_version_is_let_go(
    ledger: Ledger, two: tuple[Process, Process]
) -> None:
    ledger.ended("0")
    ledger.ended("1")
    Process().tell(ledger, "0")
    assert shown(ledger)["requests_total{model=delays,version=1}"] == 8
    Process().tell(ledger, "0", held=[HELD])
    assert shown(ledger)["requests_total{model=delays,version=1}"] == 8
    Process().tell(ledger, "0", held=[])
    assert "requests_total{model=delays,version=1}" not in shown(ledger)


def test_what_is_not_of_a_version_stays_when_only_the_dead_counted_it(ledger: Ledger) -> None:
    gone, here = Process(), Process()
    feedback = Counter("feedback", "Feedback.", ["status"], registry=gone.registry)
    feedback.labels("accepted").inc(4)
    gone.tell(ledger, "0")
    here.tell(ledger, "1")
    ledger.ended("0")
    assert shown(ledger)["feedback_total{status=accepted}"] == 4


class Tallied(Process):
    """One that counts by tallies, and writes them where they outlive it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
        super().__init__()
        self.request_tally = CountTally(self.requests.labels("delays", "1"))
        self.seconds_tally = HistogramTally(self.seconds)
        self.size_tally = SummaryTally(self.size)
        self.scores_tally = CountTally(self.scores)
        self.tallies: list[Tally] = [self.request_tally, self.seconds_tally, self.size_tally, self.scores_tally]
        monkeypatch.setattr(last_words, "all_tallies", lambda: self.tallies)
        self.words = LastWords(memory)

    def count(self, number: int) -> None:
        """As `work` does, some scores below 0."""
        for _ in range(number):
            self.request_tally.value += 1
            self.seconds_tally.observe(1.5)
            self.size_tally.count += 1
            self.size_tally.total += 10
            self.scores_tally.value -= 0.5

    def tell(self, ledger: Ledger, name: str, held: list[tuple[str, str]] | None = None) -> None:
        """Tell all, as a worker does."""
        for tally in self.tallies:
            tally.move()
        told = families(self.registry)
        moved: list[Counted] = last_words.moved()
        self.words.write()
        ledger.tell(name, told, moved, held)


@pytest.mark.parametrize("told", [True, False])
def test_what_a_killed_process_counted_since_it_told_last_is_not_lost(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    memory = last_words.make()
    assert last_words.read(memory) == []
    process = Tallied(monkeypatch, memory)
    process.count(3)
    if told:
        process.tell(ledger, "0")
    process.count(4)
    process.words.write()
    process.count(5)  # not written any more
    ledger.ended("0", last_words.read(memory))
    os.close(memory)
    Process().tell(ledger, "0")
    seen = shown(ledger)
    assert seen["requests_total{model=delays,version=1}"] == 7
    assert (seen["seconds_bucket{le=1.0}"], seen["seconds_bucket{le=2.0}"], seen["seconds_count"]) == (0, 7, 7)
    assert (seen["seconds_sum"], seen["size_count"], seen["size_sum"], seen["scores"]) == (10.5, 7, 70, -3.5)


def test_a_version_that_was_loaded_again_since_the_last_word_counts_from_0(ledger: Ledger) -> None:
    stands = Stands("requests", "counter", (("model", "delays"), ("version", "1")))
    process = Process()
    process.requests.labels("delays", "1").inc(100)
    ledger.tell("0", families(process.registry), [Counted(stands, [100.0])], [HELD])
    ledger.ended("0", [Counted(stands, [5.0])])
    ledger.begin("0")
    assert shown(ledger)["requests_total{model=delays,version=1}"] == 105


def test_infinity_is_shown(ledger: Ledger) -> None:
    process = Process()
    process.age.set(float("inf"))
    process.tell(ledger, "0")
    assert shown(ledger)["age"] == float("inf")
