"""Live quality of one day from its predictions and the truth known so far. Pure: columns in, one row out."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from shared.evaluation import evaluate
from shared.spec import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Live predictions, one row a key; all columns [n]."""

    day: NDArray[np.datetime64]
    """datetime64[D], UTC, of the event time."""
    event_s: Floats
    """Event time, epoch seconds."""
    score: Floats
    label: Floats
    """NaN while the truth is not known."""
    version: NDArray[np.int64]
    """Number of the version that answered."""
    train_label_mean: Floats
    """Label mean of the training set of that version."""
    age_s: Floats
    """From that version's as_of to the event time, seconds."""


@dataclass(frozen=True, slots=True)
class DayQuality:
    """How the live models did on one day of event time; the columns of `MonitoringDay`."""

    day: date
    predictions: int
    labelled: int
    mean_prediction: float
    mean_label: float | None
    bias: float
    label_bias: float | None
    loss: float | None
    auc: float | None
    versions: list[int]
    model_age_s: float


def quality_by_day(predictions: Predictions, task: Task) -> list[DayQuality]:
    """One result for each day that has predictions, in order.

    `bias` compares with what the model was taught: the mean of (score - label mean of the training set of the model that
    answered). It needs no labels, so it speaks at once. `label_bias` and the quality come from the labelled rows alone.
    """
    days, index = np.unique(predictions.day, return_inverse=True)
    return [_one_day(day.item(), predictions, np.flatnonzero(index == i), task) for i, day in enumerate(days)]


def _one_day(day: date, predictions: Predictions, rows: NDArray[np.intp], task: Task) -> DayQuality:
    score, label = predictions.score[rows], predictions.label[rows]
    known = ~np.isnan(label)
    quality = evaluate(task, label[known], score[known])
    return DayQuality(
        day=day,
        predictions=int(rows.size),
        labelled=quality.rows,
        mean_prediction=float(score.mean()),
        mean_label=quality.mean_label,
        bias=float((score - predictions.train_label_mean[rows]).mean()),
        label_bias=quality.prediction_bias,
        loss=quality.log_loss if task == "binary" else quality.rmse,
        auc=quality.auc,
        versions=[int(number) for number in np.unique(predictions.version[rows])],
        model_age_s=float(predictions.age_s[rows].mean()),
    )
