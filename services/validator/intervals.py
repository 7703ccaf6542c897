"""Confidence bounds for a mean over rows that come in days, and how many rows would settle an open question.

Rows of one day share weather, traffic and incidents, so the day, not the row, is what is sampled: bounds that treat rows
as independent are far too narrow. The choice of method and its measured error rates: docs/decisions/0003.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 2000
_CHUNK = 256
DAY_US = 86_400_000_000
_MOST_DAYS = 1_000_000


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Values summed by day: all that the mean, its bootstrap and its standard error need."""

    sums: Floats
    """[G] sum of the values of each day."""
    rows: Ints
    """[G] rows of each day, each at least 1."""

    @property
    def days(self) -> int:
        return int(self.rows.size)

    @property
    def total_rows(self) -> int:
        return int(self.rows.sum())

    @property
    def mean(self) -> float:
        """The row-weighted mean: a ratio of sums over days."""
        return float(self.sums.sum() / self.rows.sum())


@dataclass(frozen=True, slots=True)
class Bounds:
    """One-sided bounds of a mean, each at `confidence`; together they are a two-sided 2 * confidence - 1 interval."""

    mean: float
    lower: float
    upper: float
    standard_error: float
    degrees_of_freedom: float
    confidence: float


def utc_days(times_us: NDArray[np.int64]) -> Ints:
    """The UTC day number (days since 1970-01-01) of event times in epoch microseconds; int64 [n] to int64 [n]."""
    return np.floor_divide(np.asarray(times_us, dtype=np.int64), DAY_US)


def by_day(values: Floats, days: Ints) -> DayTotals:
    """Sum `values` [n] by `days` [n]; the days come out in rising order, whatever the order of the rows.

    Raises:
        ValueError: no rows, or shapes that differ.
    """
    if values.ndim != 1 or values.shape != days.shape or values.size == 0:
        raise ValueError(f"values and days must both be [n], n > 0, not {list(values.shape)} and {list(days.shape)}")
    _, index, rows = np.unique(days, return_inverse=True, return_counts=True)
    return DayTotals(sums=np.bincount(index, weights=values).astype(np.float64), rows=rows.astype(np.int64))


def cluster_bounds(totals: DayTotals, *, confidence: float, seed: int, resamples: int = RESAMPLES) -> Bounds:
    """The wider of two one-sided bounds on each side, resampling whole days.

    1. Percentiles of the cluster bootstrap: days drawn with replacement, the ratio of sums taken anew (Efron &
       Tibshirani 1993, section 13.3; Davison & Hinkley 1997, section 3.8). It follows skewness but is too narrow on few days.
    2. Student t on the bias-reduced cluster-robust standard error CR2 with Satterthwaite degrees of freedom (Bell &
       McCaffrey 2002; Imbens & Kolesar 2016, section 4). It is right on few days and knows when one day outweighs the rest.

    Raises:
        ValueError: fewer than two days, from which no spread can be told.
    """
    if totals.days < 2:
        raise ValueError("bounds need rows of at least two days")
    error, freedom = _cr2(totals)
    reach = float(stats.t.ppf(confidence, freedom)) * error
    means = resampled_means(totals, seed, resamples)
    low, high = np.quantile(means, [1 - confidence, confidence])
    mean = totals.mean
    return Bounds(
        mean=mean,
        lower=min(float(low), mean - reach),
        upper=max(float(high), mean + reach),
        standard_error=error,
        degrees_of_freedom=freedom,
        confidence=confidence,
    )


def days_to_settle(gap: float, *, standard_error: float, days: int, confidence: float, power: float = 0.8) -> int:
    """The days of data like those seen after which a bound clears `gap` with probability `power`, if the mean stays.

    The smallest G with (t(confidence, G-1) + t(power, G-1)) * standard_error * sqrt(days / G) <= gap: the usual sample size
    of a one-sided test (Julious 2004, section 4), counted in days because the days are what varies.

    Args:
        gap: distance of the mean from the limit that it must clear, above 0.
        standard_error: of the mean over `days` days.

    Returns:
        At least 2, at most 1,000,000 (which stands for "no realistic amount").
    """

    def enough(count: int) -> bool:
        quantiles = stats.t.ppf(confidence, count - 1) + stats.t.ppf(power, count - 1)
        return bool(quantiles * standard_error * math.sqrt(days / count) <= gap)

    if not enough(_MOST_DAYS):
        return _MOST_DAYS
    low, high = 1, _MOST_DAYS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _cr2(totals: DayTotals) -> tuple[float, float]:
    """Standard error of the ratio mean and its degrees of freedom.

    With day shares w = n / N and residuals r = sum - n * mean: variance = sum(r^2 / (1 - w)) / N^2. Under independent rows it
    is unbiased, and matching its first two moments to a chi-square gives the closed form
    df = 1 / (sum(w^2) + sum(u)^2 - sum(u^2)), u = w^2 / (1 - w); equal days give exactly G - 1.
    """
    share = totals.rows / totals.total_rows
    residual = totals.sums - totals.rows * totals.mean
    error = math.sqrt(float((residual**2 / (1 - share)).sum())) / totals.total_rows
    u = share**2 / (1 - share)
    freedom = 1 / float((share**2).sum() + u.sum() ** 2 - (u**2).sum())
    return error, max(1.0, freedom)


def resampled_means(totals: DayTotals, seed: int, resamples: int) -> Floats:
    """Means of `resamples` draws of G days with replacement, float64 [resamples]; the same seed gives the same draws."""
    rng = np.random.default_rng(seed)
    even = np.full(totals.days, 1 / totals.days)
    means = np.empty(resamples)
    for start in range(0, resamples, _CHUNK):  # whole, the weights of a ten-year history would be 60 MB
        drawn = rng.multinomial(totals.days, even, size=min(_CHUNK, resamples - start)).astype(np.float64)
        means[start : start + len(drawn)] = (drawn @ totals.sums) / (drawn @ totals.rows)
    return means
