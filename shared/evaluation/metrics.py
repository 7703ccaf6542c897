"""Metrics of scores against labels, in numpy alone, so that every service may import them.

Conventions: `labels` and `scores` are [n], any float or integer dtype, computed in float64. A summary that is not
defined (no rows, one class, a NaN or an infinity among the inputs) is None, never NaN: it goes into JSON as null, and a
gate that reads null fails closed. The per-row losses keep NaN where the input has it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Task = Literal["binary", "regression"]

PROBABILITY_CLIP = 1e-7
"""Probabilities are moved into [1e-7, 1 - 1e-7] before the logarithm: a sure and wrong answer costs 16.1 nats, and a
float32 that rounded to 0 or 1 costs no infinity."""

LOSS_NAMES: dict[Task, str] = {"binary": "log loss", "regression": "squared error"}
"""What the per-row loss of a task is called in a sentence."""


def log_loss_rows(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Negative log likelihood of each row in nats, float64 [n]: -(y ln p + (1 - y) ln(1 - p)), p clipped.

    Args:
        labels: [n], 0 or 1.
        probabilities: [n], of the positive class.

    Raises:
        ValueError: the two differ in shape or are not [n].
    """
    y, p = _pair(labels, probabilities)
    p = np.clip(p, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def squared_error_rows(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """(score - label)^2 of each row, float64 [n], in squared units of the label.

    Raises:
        ValueError: the two differ in shape or are not [n].
    """
    y, s = _pair(labels, scores)
    with np.errstate(over="ignore"):
        return (s - y) ** 2


def loss_rows(task: Task, labels: ArrayLike, scores: ArrayLike) -> Floats:
    """The loss that the gate compares, per row: log loss for binary, squared error for regression. float64 [n]."""
    return log_loss_rows(labels, scores) if task == "binary" else squared_error_rows(labels, scores)


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Mean of `log_loss_rows`; None without rows or with a non-finite input."""
    return _mean(log_loss_rows(labels, probabilities))


def rmse(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Root of the mean squared error, in units of the label; None without rows or with a non-finite input."""
    mean = _mean(squared_error_rows(labels, scores))
    return None if mean is None else float(np.sqrt(mean))


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.

    By mid-ranks in O(n log n), the Mann-Whitney identity: (sum of the positives' ranks - n1 (n1 + 1) / 2) / (n1 n0)
    (Hanley & McNeil 1982, section III).

    Args:
        labels: [n], 0 or 1.
        scores: [n], any increasing function of the probability.

    Returns:
        In [0, 1]; None when only one class is there or a score is not finite.
    """
    y, s = _pair(labels, scores)
    positive = y == 1
    positives = int(positive.sum())
    negatives = y.size - positives
    if positives == 0 or negatives == 0 or not np.isfinite(s).all():
        return None
    _, group, size = np.unique(s, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(size) - (size - 1) / 2
    rank_sum = float(mid_rank[group[positive]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of predicted probability, [low, high) (the last includes 1); means are None when the bin is empty."""

    low: float
    high: float
    rows: int
    mean_prediction: float | None
    mean_label: float | None


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """The reliability table: predicted against observed rate in `bins` equal parts of [0, 1].

    A probability outside [0, 1] counts in the nearest bin. Without rows or with a non-finite input: an empty list.

    Raises:
        ValueError: shapes differ, or fewer than one bin.
    """
    y, p = _pair(labels, probabilities)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    if y.size == 0 or not (np.isfinite(p).all() and np.isfinite(y).all()):
        return []
    index = np.minimum((np.clip(p, 0, 1) * bins).astype(np.int64), bins - 1)
    rows = np.bincount(index, minlength=bins)
    predicted = np.bincount(index, weights=p, minlength=bins)
    observed = np.bincount(index, weights=y, minlength=bins)
    return [
        ReliabilityBin(
            low=b / bins,
            high=(b + 1) / bins,
            rows=int(rows[b]),
            mean_prediction=float(predicted[b] / rows[b]) if rows[b] else None,
            mean_label=float(observed[b] / rows[b]) if rows[b] else None,
        )
        for b in range(bins)
    ]


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float | None:
    """Row-weighted mean distance of predicted from observed rate over the reliability table (Guo et al. 2017, eq. 3).

    Returns:
        In [0, 1]; None without rows or with a non-finite input. Biased upwards on few rows, as every binned estimate.
    """
    table = reliability(labels, probabilities, bins)
    gaps = [
        b.rows * abs(b.mean_prediction - b.mean_label)
        for b in table
        if b.mean_prediction is not None and b.mean_label is not None
    ]
    return sum(gaps) / sum(b.rows for b in table) if gaps else None


def prediction_bias(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Mean prediction minus mean label, in units of the label; above 0 the model promises too much.

    None without rows or with a non-finite input.
    """
    y, s = _pair(labels, scores)
    return _mean(s - y)


@dataclass(frozen=True, slots=True)
class Quality:
    """The metrics of one model on one set of rows; those that do not fit the task are None."""

    rows: int
    mean_prediction: float | None
    mean_label: float | None
    prediction_bias: float | None
    loss: float | None
    """Mean of the per-row loss the gate compares."""
    log_loss: float | None = None
    auc: float | None = None
    calibration_error: float | None = None
    rmse: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for a report or a row."""
        return asdict(self)


def evaluate(task: Task, labels: ArrayLike, scores: ArrayLike) -> Quality:
    """Every metric of `task` at once.

    Args:
        task: binary (labels 0 or 1, scores probabilities) or regression.
        labels: [n].
        scores: [n].

    Raises:
        ValueError: the two differ in shape or are not [n].
    """
    y, s = _pair(labels, scores)
    loss = _mean(loss_rows(task, y, s))
    binary = task == "binary"
    return Quality(
        rows=int(y.size),
        mean_prediction=_mean(s),
        mean_label=_mean(y),
        prediction_bias=prediction_bias(y, s),
        loss=loss,
        log_loss=loss if binary else None,
        auc=auc(y, s) if binary else None,
        calibration_error=expected_calibration_error(y, s) if binary else None,
        rmse=rmse(y, s) if task == "regression" else None,
    )


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise ValueError(f"labels and scores must both be [n], not {list(y.shape)} and {list(s.shape)}")
    return y, s


def _mean(values: Floats) -> float | None:
    if values.size == 0 or not np.isfinite(values).all():
        return None
    return float(values.mean())
