"""The first model of a pipeline has nothing to be compared with: it must be sane in itself. Pure, like the gate."""

import numpy as np

from services.validator.gate import Check, Outcome, Rows, count, number, unusable
from services.validator.intervals import by_day, cluster_bounds
from shared.evaluation import LOSS_NAMES, auc, loss_rows
from shared.registry.states import ValidationState
from shared.spec import GateSpec, Task


def judge_first(
    rows: Rows, *, task: Task, gate: GateSpec, train_label_mean: float, bias_tolerance: float, seed: int
) -> Outcome:
    """Absolute checks of a model without a baseline; each must pass.

    Args:
        rows: test rows the model was not trained on.
        train_label_mean: mean label of its train split: the constant predictor that it must not be significantly worse than.
        bias_tolerance: largest |mean prediction - mean label|: in units of the label for binary, of the test labels'
            standard deviation for regression. Only what is significantly beyond it (bounds over days) fails, as a few
            unusual days move the mean label without any fault of the model.
        seed: of the bootstrap.

    Raises:
        ValueError: labels that are not finite, or shapes that differ.
    """
    blocked = unusable(rows, task=task, gate=gate)
    if blocked is not None:
        return blocked
    if task == "binary" and np.unique(rows.labels).size < 2:
        sentence = (
            f"All {count(rows.labels.size)} test rows have the label {number(rows.labels[0])}, so that no quality can be told. "
            "Wait for other labels, or approve by hand."
        )
        return Outcome(ValidationState.INCONCLUSIVE, "one-class", sentence, enough_evidence=False)
    checks = [
        _varies(rows),
        _beats_constant(rows, task, gate, train_label_mean, seed),
        *([_ranks(rows)] if task == "binary" else []),
        _unbiased(rows, task, gate, bias_tolerance, seed),
    ]
    failed = [c for c in checks if not c.passed]
    if failed:
        sentence = "The first model is not released: " + "; ".join(c.sentence for c in failed) + "."
        return Outcome(ValidationState.REJECTED, "not-sane", sentence, checks=checks)
    days = int(np.unique(rows.days).size)
    sentence = (
        f"The first model is sane on {count(rows.labels.size)} rows of {count(days)} days: "
        + "; ".join(c.sentence for c in checks)
        + "."
    )
    return Outcome(ValidationState.PASSED, "sane", sentence, checks=checks)


def _varies(rows: Rows) -> Check:
    low, high = float(rows.candidate.min()), float(rows.candidate.max())
    if high > low:
        return Check("varies", True, f"its scores vary from {number(low)} to {number(high)}")
    return Check("varies", False, f"it gives the same score {number(low)} to every row")


def _beats_constant(rows: Rows, task: Task, gate: GateSpec, train_label_mean: float, seed: int) -> Check:
    """The gate's own rule, with the constant predictor as baseline: significantly worse fails, undecided does not."""
    own = loss_rows(task, rows.labels, rows.candidate)
    constant = loss_rows(task, rows.labels, np.full(rows.labels.size, train_label_mean))
    if not np.isfinite(own).all():  # squared errors can overflow though every score is finite
        return Check("beats-constant", False, f"its {LOSS_NAMES[task]} is not finite on some rows")
    bounds = cluster_bounds(by_day(own - constant, rows.days), confidence=gate.confidence, seed=seed)
    figures = (
        f"its mean {LOSS_NAMES[task]} is {number(float(own.mean()))} "
        f"against {number(float(constant.mean()))} of always answering the training label mean"
    )
    if bounds.upper < gate.margin or bounds.lower <= 0:
        return Check("beats-constant", True, figures)
    return Check("beats-constant", False, f"{figures}, significantly worse")


def _ranks(rows: Rows) -> Check:
    area = auc(rows.labels, rows.candidate)
    if area is not None and area > 0.5:
        return Check("ranks", True, f"its AUC is {number(area)}")
    return Check("ranks", False, f"its AUC is {'undefined' if area is None else number(area)}, no better than chance")


def _unbiased(rows: Rows, task: Task, gate: GateSpec, bias_tolerance: float, seed: int) -> Check:
    tolerance = bias_tolerance * (1.0 if task == "binary" else float(rows.labels.std()))
    bounds = cluster_bounds(by_day(rows.candidate - rows.labels, rows.days), confidence=gate.confidence, seed=seed)
    allowed = f"(tolerance {number(tolerance)})"
    if bounds.lower <= tolerance and bounds.upper >= -tolerance:
        return Check("unbiased", True, f"its prediction bias is {number(bounds.mean)} {allowed}")
    return Check(
        "unbiased",
        False,
        f"its mean prediction is off the mean label by {number(bounds.mean)}, significantly beyond what is allowed {allowed}",
    )
