"""The release gate: is the candidate not significantly worse than the model in production? Pure: arrays in, verdict out.

With d = candidate loss - baseline loss on the same rows, resampled by day: the upper bound of the mean of d below the
margin promotes; else a lower bound above 0 rejects; else the rows do not settle it, and the spec decides. What cannot be
judged (too few rows, one day, scores that are not numbers) never passes, and says why.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.validator.intervals import RESAMPLES, Bounds, DayTotals, by_day, cluster_bounds, days_to_settle
from shared.evaluation import LOSS_NAMES, loss_rows
from shared.registry.states import Decision, ValidationState
from shared.spec import GateSpec, Task

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled test rows and the scores on them; all [n] and in the same order."""

    labels: Floats
    candidate: Floats
    days: NDArray[np.int64]
    """UTC day number of each row's event time."""
    baseline: Floats | None = None
    """None when nothing is in production."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate loss minus baseline loss: the estimate, its bounds, and what would settle it."""

    mean: float
    lower: float
    upper: float
    standard_error: float
    confidence: float
    """Of each one-sided bound."""
    margin: float
    rows: int
    days: int
    rows_to_settle: int | None = None
    """Rows of the same kind (all counted, those seen too) that would probably decide it; only when undecided."""
    days_to_settle: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One sanity check of a first model."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict with its reason."""

    verdict: ValidationState
    """PASSED, REJECTED or INCONCLUSIVE."""
    reason: str
    """Stable slug: not-worse, worse, undecided, sane, not-sane, too-few-rows, one-day, one-class, bad-candidate, bad-baseline."""
    sentence: str
    enough_evidence: bool = True
    """False when the rows or the baseline allow no verdict at all: then it is held, whatever the spec says."""
    comparison: Comparison | None = None
    checks: list[Check] = field(default_factory=list)


def decide(outcome: Outcome, gate: GateSpec) -> Decision:
    """What follows from a verdict under the spec's policy; a rejection is never overruled by policy."""
    if outcome.verdict is ValidationState.REJECTED:
        return Decision.REJECT
    if not outcome.enough_evidence or gate.approval == "manual":
        return Decision.HOLD
    if outcome.verdict is ValidationState.INCONCLUSIVE and gate.inconclusive == "hold":
        return Decision.HOLD
    return Decision.PROMOTE


def judge(rows: Rows, *, task: Task, gate: GateSpec, seed: int, resamples: int = RESAMPLES) -> Outcome:
    """Compare a candidate with the model in production.

    Args:
        rows: test rows that neither model was trained on, with both models' scores.
        task: decides the loss: log loss for binary, squared error for regression.
        gate: margin (in units of that loss), confidence of each one-sided bound, fewest rows.
        seed: of the bootstrap; the same rows and seed give the same verdict.

    Raises:
        ValueError: no baseline scores, labels that are not finite, or shapes that differ.
    """
    if rows.baseline is None:
        raise ValueError("judge needs a baseline; a first model is checked by services.validator.sanity")
    blocked = unusable(rows, task=task, gate=gate)
    if blocked is not None:
        return blocked
    losses = loss_rows(task, rows.labels, rows.candidate), loss_rows(task, rows.labels, rows.baseline)
    difference = losses[0] - losses[1]
    if not np.isfinite(difference).all():  # squared errors can overflow though every score is finite
        return bad_candidate("The candidate's loss is not finite on some rows, so that it cannot be compared.")
    totals = by_day(difference, rows.days)
    bounds = cluster_bounds(totals, confidence=gate.confidence, seed=seed, resamples=resamples)
    return conclude(bounds, totals, task=task, gate=gate)


def conclude(bounds: Bounds, totals: DayTotals, *, task: Task, gate: GateSpec) -> Outcome:
    """The rule itself, on bounds that are already known."""
    seen = f"on {count(totals.total_rows)} rows of {count(totals.days)} days"
    change = f"its mean {LOSS_NAMES[task]} is {_change(bounds.mean)} {seen}"
    sure = f"{100 * gate.confidence:.4g} %"
    if bounds.upper < gate.margin:
        sentence = (
            f"The candidate is not worse than the model in production: {change}, and with {sure} confidence the difference "
            f"is below {number(bounds.upper)}, within the margin of {number(gate.margin)}."
        )
        return Outcome(ValidationState.PASSED, "not-worse", sentence, comparison=_comparison(bounds, totals, gate))
    if bounds.lower > 0:
        sentence = (
            f"The candidate is significantly worse than the model in production: {change}, with {sure} confidence at least "
            f"{number(bounds.lower)} higher, and possibly {number(bounds.upper)}, beyond the margin of {number(gate.margin)}."
        )
        return Outcome(ValidationState.REJECTED, "worse", sentence, comparison=_comparison(bounds, totals, gate))
    # Either limit may settle it: the one that is farther from the estimate needs fewer rows.
    gap = max(gate.margin - bounds.mean, bounds.mean)
    days = max(
        totals.days + 1,
        days_to_settle(gap, standard_error=bounds.standard_error, days=totals.days, confidence=gate.confidence),
    )
    needed = math.ceil(days * totals.total_rows / totals.days)
    sentence = (
        f"The rows do not settle whether the candidate is worse: {change}, but the {sure} bounds, {number(bounds.lower)} and "
        f"{number(bounds.upper)}, reach from no harm to more than the margin of {number(gate.margin)}. "
        f"About {count(needed)} rows ({count(days)} such days) would settle it."
    )
    comparison = _comparison(bounds, totals, gate, rows_to_settle=needed, days_to_settle=days)
    return Outcome(ValidationState.INCONCLUSIVE, "undecided", sentence, comparison=comparison)


def unusable(rows: Rows, *, task: Task, gate: GateSpec) -> Outcome | None:
    """Why these rows allow no verdict, or None when they do. A candidate at fault is rejected; the rest is held.

    Raises:
        ValueError: labels that are not finite (they should never have become test rows), or shapes that differ.
    """
    arrays = [rows.labels, rows.candidate, rows.days, *([] if rows.baseline is None else [rows.baseline])]
    if any(a.shape != (rows.labels.size,) for a in arrays):
        raise ValueError(f"labels, scores and days must all be [n], not {[list(a.shape) for a in arrays]}")
    if not np.isfinite(rows.labels).all():
        raise ValueError("labels must be finite; rows without a label are no test rows")
    bad = _bad_scores(rows.candidate, task)
    if bad:
        return bad_candidate(f"The candidate gave {bad} on {count(rows.labels.size)} test rows; it cannot serve.")
    if rows.labels.size < gate.min_rows:
        return held(
            "too-few-rows",
            f"There are {count(rows.labels.size)} test rows; the gate needs at least {count(gate.min_rows)} (gate.min_rows). "
            "Wait for more labels, or approve by hand.",
        )
    if np.unique(rows.days).size < 2:
        return held(
            "one-day",
            f"All {count(rows.labels.size)} test rows are of one day, which tells nothing about the next. "
            "A test window of several days is needed, or approval by hand.",
        )
    if rows.baseline is not None:
        bad = _bad_scores(rows.baseline, task)
        if bad:
            return held(
                "bad-baseline", f"The model in production gave {bad} on the test rows, so that nothing can be compared."
            )
    return None


def number(value: float) -> str:
    """Four significant digits, as they stand in sentences."""
    return f"{value:.4g}"


def count(value: int) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}"


def _bad_scores(scores: Floats, task: Task) -> str:
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        return f"{count(wrong)} scores that are not finite numbers"
    outside = int(((scores < 0) | (scores > 1)).sum()) if task == "binary" else 0
    return f"{count(outside)} scores outside [0, 1]" if outside else ""


def bad_candidate(sentence: str) -> Outcome:
    """A candidate that cannot serve at all is rejected, whatever it is compared with."""
    return Outcome(ValidationState.REJECTED, "bad-candidate", sentence)


def held(reason: str, sentence: str) -> Outcome:
    """No verdict is possible: held for a person, whatever the spec says of inconclusive ones."""
    return Outcome(ValidationState.INCONCLUSIVE, reason, sentence, enough_evidence=False)


def _change(mean: float) -> str:
    if mean == 0:
        return "the same"
    return f"{number(abs(mean))} {'higher' if mean > 0 else 'lower'}"


def _comparison(
    bounds: Bounds,
    totals: DayTotals,
    gate: GateSpec,
    *,
    rows_to_settle: int | None = None,
    days_to_settle: int | None = None,
) -> Comparison:
    return Comparison(
        mean=bounds.mean,
        lower=bounds.lower,
        upper=bounds.upper,
        standard_error=bounds.standard_error,
        confidence=bounds.confidence,
        margin=gate.margin,
        rows=totals.total_rows,
        days=totals.days,
        rows_to_settle=rows_to_settle,
        days_to_settle=days_to_settle,
    )
