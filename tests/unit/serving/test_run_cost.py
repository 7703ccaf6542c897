"""The cost of a run is learned from runs, and says how many rows fit into a time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.run_cost import REMEMBERS_S, RowBytes, RunCost


def test_two_measurements_make_a_line() -> None:
    cost = RunCost.measured(one_row_s=21e-6, many_rows_s=276e-6, many=256)
    assert cost.of(1) == pytest.approx(21e-6)
    assert cost.of(256) == pytest.approx(276e-6)


@pytest.mark.parametrize(("one_row_s", "many_rows_s"), [(5e-3, 1e-3), (0.0, 0.0)])
def test_measurements_that_make_no_sense_give_no_negative_cost(one_row_s: float, many_rows_s: float) -> None:
    cost = RunCost.measured(one_row_s=one_row_s, many_rows_s=many_rows_s, many=256)
    assert cost.per_row_s >= 0
    assert cost.fixed_s >= 0
    assert cost.rows_within(1e-3) >= 1


def test_rows_that_fit() -> None:
    cost = RunCost(fixed_s=1e-3, per_row_s=1e-5)
    assert cost.rows_within(2e-3) == 100
    assert cost.rows_within(1e-4) == 1, "one row must run, whatever it takes"
    assert cost.of(cost.rows_within(5e-3)) <= 5e-3


def test_it_follows_what_runs_take() -> None:
    draw = random.Random(7)
    cost = RunCost(fixed_s=5e-3, per_row_s=1e-4)
    for _ in range(2000):
        rows = draw.choice([1, 2, 8, 20, 100, 500])
        cost.learn(rows, (2e-4 + 3e-6 * rows) * draw.uniform(0.8, 1.2))
    assert cost.of(1) == pytest.approx(2e-4, rel=0.25)
    assert cost.of(500) == pytest.approx(2e-4 + 3e-6 * 500, rel=0.25)


def test_one_stalled_run_moves_the_estimate_a_little() -> None:
    cost = RunCost(fixed_s=20e-6, per_row_s=1e-6)
    cost.learn(1, 0.5)
    assert cost.of(1) < 2 * 21e-6


@pytest.mark.parametrize("rows", [1, 64, 4096])
@pytest.mark.parametrize("start", [(0.0, 0.0), (5e-3, 1e-9), (1e-9, 5e-3), (5e-3, 5e-3)])
def test_runs_of_one_size_alone_bring_the_estimate_for_that_size_down_and_up(
    rows: int, start: tuple[float, float]
) -> None:
    cost = RunCost(*start)
    for _ in range(2000):
        cost.learn(rows, 30e-6 + 1e-6 * rows)
    assert cost.of(rows) == pytest.approx(30e-6 + 1e-6 * rows, rel=0.3)
    assert cost.rows_within(1e-3) >= 1


@given(runs=st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 100)), max_size=200), within_s=st.floats(0, 1))
def test_whatever_was_learned_the_rows_within_a_time_are_a_number(
    runs: list[tuple[int, float]], within_s: float
) -> None:
    cost = RunCost.measured(0.0, 0.0, 256)
    for rows, seconds in runs:
        cost.learn(rows, seconds)
    assert 1 <= cost.rows_within(within_s) <= 2**31
    assert cost.of(1) > 0


def test_a_body_does_not_seem_to_have_more_rows_than_the_like_of_it_had_lately() -> None:
    sizes = RowBytes()
    sizes.learn(0, now_s=90)  # a request without a body
    assert sizes.rows_in(10**6) == 1  # nothing is known yet
    sizes.learn(500, now_s=100)
    assert [sizes.rows_in(size) for size in (0, 500, 32 * 500)] == [1, 1, 32]
    sizes.learn(1000, now_s=100)
    for _ in range(1000):
        sizes.learn(500, now_s=101)  # many of them do not make it forget the large one
    assert sizes.rows_in(32 * 500) == 16
    sizes.learn(500, now_s=101 + 2 * REMEMBERS_S)
    assert sizes.rows_in(32 * 500) == 32
    sizes.learn(0, now_s=10**6)
    assert sizes.rows_in(32 * 500) == 32
