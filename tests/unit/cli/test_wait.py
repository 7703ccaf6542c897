"""Waiting looks until it is over, shows each state, and ends at its deadline."""

from itertools import count

import pytest

from cli.wait import POLL_S, StillGoing, wait_for


def test_it_shows_each_state_and_returns_the_last_row() -> None:
    rows = iter([{"state": "running"}, {"state": "done", "n": 3}])
    shown: list[str] = []
    naps: list[float] = []
    row = wait_for({"state": "queued"}, lambda: next(rows), {"done"}, shown.append, deadline_s=60, sleep=naps.append)
    assert row == {"state": "done", "n": 3}
    assert shown == ["queued", "running", "done"]
    assert naps == [POLL_S, POLL_S]


def test_it_gives_up_at_the_deadline_and_says_where_it_stood() -> None:
    ticks = count()
    with pytest.raises(StillGoing, match="c7 is still in state training after 1 minutes") as caught:
        wait_for(
            {"state": "training", "id": "c7"},
            lambda: {"state": "training", "id": "c7"},
            {"done"},
            lambda _: None,
            deadline_s=60,
            sleep=lambda _: None,
            clock=lambda: next(ticks),
        )
    assert caught.value.row["id"] == "c7"
