"""No truth is told before its moment; every truth is told once, in the order in which it became known."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cli.demo.truth import PendingTruth

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)


def _minutes(count: int) -> datetime:
    return NOON + timedelta(minutes=count)


def test_what_is_known_at_the_very_moment_is_told() -> None:
    pending = PendingTruth()
    pending.add(NOON, {"n": 1})
    assert pending.due(_minutes(-1)) == []
    assert pending.due(NOON) == [{"n": 1}]
    assert pending.due(NOON) == []


def test_the_last_moment_is_that_of_the_latest_truth() -> None:
    pending = PendingTruth()
    assert pending.last_known_at is None
    for minutes in (5, 90, 40):
        pending.add(_minutes(minutes), {})
    assert pending.last_known_at == _minutes(90)
    assert len(pending) == 3


@given(known=st.lists(st.integers(0, 600), max_size=40), looks=st.lists(st.integers(0, 700), max_size=8))
def test_each_truth_is_told_once_and_never_early(known: list[int], looks: list[int]) -> None:
    pending = PendingTruth()
    for number, minutes in enumerate(known):
        pending.add(_minutes(minutes), {"number": number, "minutes": minutes})
    told: list[dict[str, Any]] = []
    for now in [*sorted(looks), 1000]:
        batch = pending.due(_minutes(now))
        assert all(item["minutes"] <= now for item in batch)
        assert [item["minutes"] for item in batch] == sorted(item["minutes"] for item in batch)
        told += batch
    assert sorted(item["number"] for item in told) == list(range(len(known)))
