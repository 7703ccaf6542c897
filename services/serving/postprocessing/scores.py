"""Stages that make a score of a score, whatever else is there."""

from collections.abc import Callable

import numpy as np

from shared.spec.postprocessing import CalibrateStage, ClipStage, Platt

Rescore = Callable[[np.ndarray], np.ndarray]
"""Scores to scores, float64 [n]."""


def rescore(stage: ClipStage | CalibrateStage) -> Rescore:
    """The stage over an array of scores."""
    match stage:
        case ClipStage(low=low, high=high):
            return lambda scores: np.clip(scores, low, high)
        case CalibrateStage(platt=Platt() as platt):
            return lambda scores: _platt(scores, platt)
        case _:
            given, mapped = np.array(stage.points, np.float64).T.copy()
            return lambda scores: np.interp(scores, given, mapped)


_ABOVE_0, _BELOW_1 = np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)


def _platt(scores: np.ndarray, platt: Platt) -> np.ndarray:
    inside = np.minimum(np.maximum(scores, _ABOVE_0), _BELOW_1)
    odds = platt.slope * (np.log(inside) - np.log1p(-inside)) + platt.intercept
    calibrated: np.ndarray = 0.5 * (1 + np.tanh(0.5 * odds))  # the logistic function, which overflows nowhere
    return calibrated
