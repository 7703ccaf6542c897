"""Bounds over days: the closed forms against the textbook, determinism, and coverage."""

import numpy as np
import pytest
from scipy import stats

from services.validator.intervals import (
    DAY_US,
    DayTotals,
    by_day,
    cluster_bounds,
    days_to_settle,
    resampled_means,
    utc_days,
)


def totals(seed: int, days: int, rows: int = 50) -> DayTotals:
    rng = np.random.default_rng(seed)
    return DayTotals(rng.normal(0, 1, days) * rows, np.full(days, rows))


def test_days_are_utc_also_before_1970() -> None:
    assert utc_days(np.array([0, DAY_US - 1, DAY_US, -1])).tolist() == [0, 0, 1, -1]


def test_by_day_sums_whatever_the_order() -> None:
    values, days = np.array([1.0, 2.0, 3.0, 4.0]), np.array([9, 7, 9, 7])
    got = by_day(values, days)
    assert (got.sums.tolist(), got.rows.tolist(), got.mean) == ([6.0, 4.0], [2, 2], 2.5)
    shuffled = by_day(values[::-1], days[::-1])
    assert shuffled.sums.tolist() == got.sums.tolist()


def test_with_equal_days_it_is_the_t_interval_of_the_day_means() -> None:
    t = totals(1, days=5)
    bounds = cluster_bounds(t, confidence=0.95, seed=0)
    means = t.sums / t.rows
    assert bounds.degrees_of_freedom == pytest.approx(4)
    assert bounds.standard_error == pytest.approx(means.std(ddof=1) / np.sqrt(5))
    assert bounds.upper >= means.mean() + stats.t.ppf(0.95, 4) * bounds.standard_error - 1e-12


def test_degrees_of_freedom_match_the_matrix_form() -> None:
    rows = np.array([5, 40, 300, 20, 80])
    n, share = rows.astype(float), rows / rows.sum()
    residual_maker = np.eye(5) - np.outer(n, np.ones(5)) / n.sum()
    quadratic = residual_maker.T @ np.diag(1 / (1 - share)) @ residual_maker @ np.diag(n)
    expected = np.trace(quadratic) ** 2 / np.trace(quadratic @ quadratic)
    bounds = cluster_bounds(DayTotals(np.arange(5.0) * n, rows), confidence=0.9, seed=0)
    assert bounds.degrees_of_freedom == pytest.approx(expected)


def test_a_day_that_outweighs_the_rest_costs_degrees_of_freedom() -> None:
    even = cluster_bounds(totals(2, days=10), confidence=0.95, seed=0)
    lopsided = cluster_bounds(DayTotals(totals(2, 10).sums, np.array([5000] + [50] * 9)), confidence=0.95, seed=0)
    assert lopsided.degrees_of_freedom < 2 < even.degrees_of_freedom


def test_the_seed_decides_every_digit() -> None:
    t = totals(3, days=30)
    assert cluster_bounds(t, confidence=0.95, seed=5) == cluster_bounds(t, confidence=0.95, seed=5)
    assert (resampled_means(t, 5, 600) != resampled_means(t, 6, 600)).any()


def test_the_bootstrap_spread_is_that_of_the_ratio_mean() -> None:
    t = totals(4, days=200)
    spread = resampled_means(t, 1, 4000).std()
    assert spread == pytest.approx(cluster_bounds(t, confidence=0.95, seed=1).standard_error, rel=0.05)


def test_no_spread_gives_a_point() -> None:
    bounds = cluster_bounds(DayTotals(np.zeros(4), np.full(4, 10)), confidence=0.95, seed=0)
    assert (bounds.lower, bounds.upper, bounds.standard_error) == (0, 0, 0)


def test_one_day_has_no_bounds() -> None:
    with pytest.raises(ValueError, match="two days"):
        cluster_bounds(DayTotals(np.ones(1), np.ones(1, np.int64)), confidence=0.95, seed=0)
    with pytest.raises(ValueError, match="n > 0"):
        by_day(np.empty(0), np.empty(0, np.int64))


@pytest.mark.parametrize(("gap", "days"), [(0.5, 10), (0.01, 14), (3.0, 2)])
def test_days_to_settle_is_the_fewest_that_reach_the_gap(gap: float, days: int) -> None:
    def reach(count: int) -> float:
        quantiles = stats.t.ppf(0.95, count - 1) + stats.t.ppf(0.8, count - 1)
        return float(quantiles * 0.2 * np.sqrt(days / count))

    needed = days_to_settle(gap, standard_error=0.2, days=days, confidence=0.95)
    assert reach(needed) <= gap
    assert needed == 2 or reach(needed - 1) > gap


def test_a_hopeless_gap_is_capped() -> None:
    assert days_to_settle(1e-9, standard_error=1.0, days=10, confidence=0.95) == 1_000_000
