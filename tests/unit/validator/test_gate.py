"""The verdict as scenario tables: no database, no model, arrays in and a sentence out."""

import math

import numpy as np
import pytest

from services.validator.gate import Outcome, Rows, decide, judge
from shared.registry.states import Decision, ValidationState
from shared.spec import GateSpec

GATE = GateSpec(margin=0.005, confidence=0.95, min_rows=100)
PASSED, REJECTED, INCONCLUSIVE = ValidationState.PASSED, ValidationState.REJECTED, ValidationState.INCONCLUSIVE


def rows_with(shift: float, *, days: int = 14, per_day: int = 200, day_sd: float = 0.0, seed: int = 1) -> Rows:
    """A regression set on which the candidate's squared error is `shift` (plus a day's effect) above the baseline's 1."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    effect = rng.normal(0, day_sd, days) if day_sd else np.zeros(days)
    labels = rng.normal(size=day.size)
    sign = rng.choice([-1.0, 1.0], day.size)
    loss = 1 + shift + effect[day] + rng.normal(0, 0.02, day.size)
    return Rows(labels=labels, candidate=labels + sign * np.sqrt(loss), baseline=labels + sign, days=day)


@pytest.mark.parametrize(
    ("name", "rows", "verdict", "reason", "says"),
    [
        ("better", rows_with(-0.02), PASSED, "not-worse", "lower"),
        ("equal", rows_with(0.0), PASSED, "not-worse", "within the margin of 0.005"),
        ("worse within the margin", rows_with(0.002), PASSED, "not-worse", "higher"),
        ("worse", rows_with(0.02), REJECTED, "worse", "significantly worse"),
        ("noisy", rows_with(0.0, days=5, day_sd=0.05), INCONCLUSIVE, "undecided", "would settle it"),
        ("at the margin", rows_with(0.005, day_sd=0.02, seed=2), INCONCLUSIVE, "undecided", "would settle it"),
    ],
)
def test_verdicts(name: str, rows: Rows, verdict: ValidationState, reason: str, says: str) -> None:
    outcome = judge(rows, task="regression", gate=GATE, seed=7)
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
    assert says in outcome.sentence
    assert f"{rows.labels.size:,} rows" in outcome.sentence
    assert outcome.enough_evidence
    assert outcome.comparison is not None
    assert outcome.comparison.lower <= outcome.comparison.mean <= outcome.comparison.upper


def test_undecided_says_how_many_rows_would_settle_it() -> None:
    rows = rows_with(0.0, days=10, day_sd=0.01)
    got = judge(rows, task="regression", gate=GATE, seed=7)
    assert got.comparison is not None
    assert got.comparison.rows_to_settle is not None
    assert got.comparison.rows_to_settle > rows.labels.size
    enough = math.ceil(got.comparison.rows_to_settle / 200)
    assert got.comparison.days_to_settle == enough
    assert f"{got.comparison.rows_to_settle:,} rows" in got.sentence


def test_the_rows_it_asks_for_mostly_settle_it() -> None:
    plans = [
        judge(rows_with(0.0, days=10, day_sd=0.01, seed=s), task="regression", gate=GATE, seed=s) for s in range(20)
    ]
    needed = int(
        np.median([p.comparison.days_to_settle for p in plans if p.comparison and p.comparison.days_to_settle])
    )
    later = [
        judge(rows_with(0.0, days=needed, day_sd=0.01, seed=100 + s), task="regression", gate=GATE, seed=s)
        for s in range(40)
    ]
    assert sum(o.verdict is not INCONCLUSIVE for o in later) >= 24  # planned for 80 % when the estimate holds


def spoilt(rows: Rows, *, candidate: float | None = None, baseline: float | None = None) -> Rows:
    c, b = rows.candidate.copy(), rows.baseline.copy() if rows.baseline is not None else None
    if candidate is not None:
        c[3] = candidate
    if baseline is not None and b is not None:
        b[3] = baseline
    return Rows(rows.labels, c, rows.days, b)


@pytest.mark.parametrize(
    ("rows", "reason", "verdict", "decision"),
    [
        (spoilt(rows_with(-0.1), candidate=math.nan), "bad-candidate", REJECTED, Decision.REJECT),
        (spoilt(rows_with(-0.1), candidate=math.inf), "bad-candidate", REJECTED, Decision.REJECT),
        (spoilt(rows_with(-0.1), candidate=1e200), "bad-candidate", REJECTED, Decision.REJECT),
        (spoilt(rows_with(-0.1), baseline=math.nan), "bad-baseline", INCONCLUSIVE, Decision.HOLD),
        (rows_with(-0.1, per_day=7), "too-few-rows", INCONCLUSIVE, Decision.HOLD),
        (rows_with(-0.1, days=1), "one-day", INCONCLUSIVE, Decision.HOLD),
    ],
)
def test_what_cannot_be_judged_never_passes(
    rows: Rows, reason: str, verdict: ValidationState, decision: Decision
) -> None:
    outcome = judge(rows, task="regression", gate=GATE, seed=7)
    assert (outcome.reason, outcome.verdict) == (reason, verdict)
    assert decide(outcome, GATE) is decision
    assert outcome.sentence.endswith((".", "by hand."))


def test_a_probability_outside_its_range_is_refused() -> None:
    rows = rows_with(0.0)
    labels = (rows.labels > 0).astype(float)
    outcome = judge(
        Rows(labels, np.full(labels.size, 1.5), rows.days, np.full(labels.size, 0.5)),
        task="binary",
        gate=GATE,
        seed=1,
    )
    assert (outcome.reason, outcome.verdict) == ("bad-candidate", REJECTED)
    assert "outside [0, 1]" in outcome.sentence


def test_the_same_model_twice_passes() -> None:
    rows = rows_with(0.0)
    outcome = judge(Rows(rows.labels, rows.candidate, rows.days, rows.candidate), task="regression", gate=GATE, seed=1)
    assert outcome.verdict is PASSED
    assert "the same" in outcome.sentence


def test_rows_in_any_order_and_the_same_seed_give_the_same_verdict() -> None:
    rows = rows_with(0.001, day_sd=0.01)
    order = np.random.default_rng(0).permutation(rows.labels.size)
    assert rows.baseline is not None
    shuffled = Rows(rows.labels[order], rows.candidate[order], rows.days[order], rows.baseline[order])
    a, b = (judge(r, task="regression", gate=GATE, seed=7) for r in (rows, shuffled))
    assert a.comparison is not None
    assert b.comparison is not None
    assert a == judge(rows, task="regression", gate=GATE, seed=7)
    assert a.comparison.upper == pytest.approx(b.comparison.upper, abs=1e-12)


def test_malformed_input_is_an_error_not_a_verdict() -> None:
    rows = rows_with(0.0)
    with pytest.raises(ValueError, match="baseline"):
        judge(Rows(rows.labels, rows.candidate, rows.days), task="regression", gate=GATE, seed=1)
    with pytest.raises(ValueError, match=r"must all be \[n\]"):
        judge(Rows(rows.labels, rows.candidate[:5], rows.days, rows.baseline), task="regression", gate=GATE, seed=1)
    with pytest.raises(ValueError, match="finite"):
        judge(
            Rows(rows.labels * math.nan, rows.candidate, rows.days, rows.baseline), task="regression", gate=GATE, seed=1
        )


@pytest.mark.parametrize(
    ("verdict", "enough", "inconclusive", "approval", "decision"),
    [
        (PASSED, True, "promote", "auto", Decision.PROMOTE),
        (PASSED, True, "hold", "auto", Decision.PROMOTE),
        (PASSED, True, "promote", "manual", Decision.HOLD),
        (INCONCLUSIVE, True, "promote", "auto", Decision.PROMOTE),
        (INCONCLUSIVE, True, "hold", "auto", Decision.HOLD),
        (INCONCLUSIVE, True, "promote", "manual", Decision.HOLD),
        (INCONCLUSIVE, False, "promote", "auto", Decision.HOLD),
        (REJECTED, True, "promote", "auto", Decision.REJECT),
        (REJECTED, True, "promote", "manual", Decision.REJECT),
    ],
)
def test_policy(verdict: ValidationState, enough: bool, inconclusive: str, approval: str, decision: Decision) -> None:
    gate = GateSpec.model_validate({"inconclusive": inconclusive, "approval": approval})
    assert decide(Outcome(verdict, "any", "Any.", enough_evidence=enough), gate) is decision
