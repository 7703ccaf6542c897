"""The first model's absolute checks."""

import numpy as np
import pytest

from services.validator.gate import Rows
from services.validator.sanity import judge_first
from shared.registry.states import ValidationState
from shared.spec import GateSpec, Task

GATE = GateSpec()


def flights(seed: int = 1, days: int = 14, per_day: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, true probabilities and days of a set whose rate is about 0.2."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.0, 4.0, days * per_day)
    return (rng.random(p.size) < p).astype(float), p, np.repeat(np.arange(days), per_day)


def judged(labels: np.ndarray, scores: np.ndarray, days: np.ndarray, task: Task = "binary", mean: float = 0.2):
    return judge_first(
        Rows(labels, scores, days), task=task, gate=GATE, train_label_mean=mean, bias_tolerance=0.05, seed=3
    )


def test_a_good_first_model_passes_and_says_why() -> None:
    outcome = judged(*flights())
    assert (outcome.verdict, outcome.reason) == (ValidationState.PASSED, "sane")
    assert [c.name for c in outcome.checks] == ["varies", "beats-constant", "ranks", "unbiased"]
    assert "AUC" in outcome.sentence
    assert "2,800 rows of 14 days" in outcome.sentence


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda p, y: np.full(p.size, 0.2), "varies"),
        (lambda p, y: np.clip(1 - p, 0, 1), "ranks"),
        (lambda p, y: np.clip(1 - p, 0, 1), "beats-constant"),
        (lambda p, y: np.clip(p + 0.2, 0, 1), "unbiased"),
        (lambda p, y: np.clip(p - 0.15, 0, 1), "unbiased"),
    ],
)
def test_a_model_that_is_not_sane_is_rejected_by_name(spoil, check: str) -> None:
    labels, p, days = flights()
    outcome = judged(labels, spoil(p, labels), days)
    assert (outcome.verdict, outcome.reason) == (ValidationState.REJECTED, "not-sane")
    assert check in [c.name for c in outcome.checks if not c.passed]
    assert outcome.sentence.startswith("The first model is not released: its ") or "it gives" in outcome.sentence


def test_a_bias_that_a_few_days_could_explain_is_no_fault() -> None:
    labels, p, days = flights(days=14)
    storm = labels.copy()
    storm[days == 3] = 1.0  # one day on which everything is late: mean off by 0.06, but only because of that day
    outcome = judged(storm, p, days, mean=0.2)
    assert next(c for c in outcome.checks if c.name == "unbiased").passed


def test_no_better_than_the_constant_is_sane_but_significantly_worse_is_not() -> None:
    labels, p, days = flights()
    rng = np.random.default_rng(4)
    hazy, wild = (np.clip(p * np.exp(rng.normal(0, spread, p.size)), 0.001, 0.999) for spread in (0.5, 2.5))
    assert judged(labels, hazy, days).verdict is ValidationState.PASSED
    assert "beats-constant" in [c.name for c in judged(labels, wild, days).checks if not c.passed]


def test_regression_measures_bias_in_label_deviations() -> None:
    rng = np.random.default_rng(2)
    days = np.repeat(np.arange(10), 100)
    truth = rng.normal(20, 40, days.size)
    good, biased = truth + rng.normal(0, 20, days.size), truth + 10 + rng.normal(0, 20, days.size)
    assert judged(truth, good, days, "regression", 20.0).verdict is ValidationState.PASSED
    outcome = judged(truth, biased, days, "regression", 20.0)
    assert [c.name for c in outcome.checks if not c.passed] == ["unbiased"]


@pytest.mark.parametrize(
    ("labels", "scores", "days", "reason"),
    [
        (np.zeros(500), np.linspace(0, 1, 500), np.arange(500) % 9, "one-class"),
        (np.arange(50) % 2, np.linspace(0, 1, 50), np.arange(50) % 9, "too-few-rows"),
        (np.arange(500) % 2, np.linspace(0, 1, 500), np.zeros(500, np.int64), "one-day"),
    ],
)
def test_too_little_to_judge_is_held(labels: np.ndarray, scores: np.ndarray, days: np.ndarray, reason: str) -> None:
    outcome = judged(labels.astype(float), scores, days)
    assert (outcome.verdict, outcome.reason) == (ValidationState.INCONCLUSIVE, reason)
    assert not outcome.enough_evidence
