"""What the transform learns from the train split: plain statistics of each feature, no graph yet."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from shared.feeds import Feeds
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, VectorFeature

QUANTILES = 64
"""Steps of the quantile transform; more did not help and each costs time at every prediction."""
MAX_SCALED = 10.0
"""Scaled numbers are clamped to this many standard deviations: an outlier must not swamp the network."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scaling:
    """`(x - center) * factor`, clamped to [low, high], what the train split spans. Scalars, or float32 [length]."""

    center: np.ndarray
    factor: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Quantiles:
    """A monotone piecewise linear map onto [0, 1]: segment i starts at start[i], 1/slope[i] long, and adds rise[i]."""

    start: np.ndarray
    slope: np.ndarray
    rise: np.ndarray


@dataclass(frozen=True)
class NumberStatistics:
    """How a number is imputed, flagged, scaled and ranked."""

    fill: float
    has_missing: bool
    scaling: Scaling
    quantiles: Quantiles | None


@dataclass(frozen=True)
class CategoryStatistics:
    """The values kept, the most frequent first. The missing value '' is not among them: it has an id of its own."""

    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """The fitted features by name; timestamps and crosses learn nothing here."""

    numbers: dict[str, NumberStatistics]
    categories: dict[str, CategoryStatistics]
    vectors: dict[str, Scaling]


def fit_statistics(feeds: Feeds, spec: PipelineSpec) -> Statistics:
    """Learn every feature's statistics from the train split.

    Args:
        feeds: input tensors of the train split (see `feeds_of`).
        spec: the pipeline.
    """
    found = Statistics({}, {}, {})
    for name, feature in spec.features.items():
        match feature:
            case NumberFeature():
                found.numbers[name] = fit_number(feeds[name], feature)
            case CategoryFeature():
                found.categories[name] = fit_category(feeds[name], feature)
            case VectorFeature():
                found.vectors[name] = _fit_scaling(feeds[name], feature.scale)
            case _:
                pass
    return found


def fit_category(values: np.ndarray, feature: CategoryFeature) -> CategoryStatistics:
    """The most frequent values; ties go by the text, so that the row order does not matter."""
    counts = Counter(values.tolist())
    counts.pop("", None)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return CategoryStatistics(tuple(value for value, _ in ranked[: feature.vocabulary]))


def fit_number(values: np.ndarray, feature: NumberFeature) -> NumberStatistics:
    """Statistics of a float32 [n] column; NaN is missing. A column without any value is filled with 0."""
    given = np.clip(values[~np.isnan(values)].astype(np.float64), -_FLOAT32_MAX, _FLOAT32_MAX)
    match feature.impute:
        case "median" if len(given):
            fill = float(np.median(given))
        case "mean" if len(given):
            fill = float(np.mean(given))
        case _:
            fill = 0.0
    filled = np.concatenate([given, np.full(len(values) - len(given), fill)])
    scaled = np.sign(filled) * np.log1p(np.abs(filled)) if feature.transform == "log1p" else filled
    return NumberStatistics(
        fill=fill,
        has_missing=len(given) < len(values),
        scaling=_fit_scaling(scaled, feature.scale),
        quantiles=fit_quantiles(given) if feature.transform == "quantile" else None,
    )


def fit_quantiles(given: np.ndarray) -> Quantiles | None:
    """The quantile map of float64 [m] values; None when they do not vary.

    Where several quantiles fall on one value, the value gets the middle of their positions.
    """
    if not len(given):
        return None
    levels = np.linspace(0, 1, QUANTILES + 1)
    knots, first, count = np.unique(
        np.quantile(given, levels).astype(np.float32).astype(np.float64), return_index=True, return_counts=True
    )
    positions = (levels[first] + levels[first + count - 1]) / 2
    lengths = np.diff(knots)
    # Knots so close that float32 cannot hold the slope between them are one knot.
    wide = lengths > np.maximum(1e-30, np.abs(knots[1:]) * 1e-6)
    if not wide.any():
        return None
    positions = (positions - positions[0]) / (positions[-1] - positions[0])
    return Quantiles(
        start=knots[:-1][wide].astype(np.float32),
        slope=(1 / lengths[wide]).astype(np.float32),
        rise=np.diff(positions)[wide].astype(np.float32),
    )


def _fit_scaling(values: np.ndarray, scale: str) -> Scaling:
    """Scaling of float [n] or [n, length] values along the rows; what does not vary is scaled to 0."""
    finite = np.clip(values.astype(np.float64), -_FLOAT32_MAX, _FLOAT32_MAX)
    if not len(finite):
        finite = np.zeros((1, *finite.shape[1:]))
    low, high = finite.min(axis=0), finite.max(axis=0)
    match scale:
        case "standard":
            center, spread = finite.mean(axis=0), finite.std(axis=0)
        case "minmax":
            center, spread = low, high - low
        case _:
            center, spread = np.zeros_like(low), np.ones_like(low)
    # The relative floor catches columns that only seem to vary, by rounding.
    flat = spread <= np.maximum(1e-30, np.abs(center) * 1e-7)
    factor = np.where(flat, 0.0, 1 / np.where(flat, 1.0, spread))
    bound = np.inf if scale == "none" else MAX_SCALED
    return Scaling(
        center=np.asarray(center, np.float32),
        factor=np.asarray(factor, np.float32),
        low=np.asarray(np.clip((low - center) * factor, -bound, bound), np.float32),
        high=np.asarray(np.clip((high - center) * factor, -bound, bound), np.float32),
    )
