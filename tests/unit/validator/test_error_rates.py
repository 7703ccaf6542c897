"""The gate's error rates, short: the full table is `python -m benchmarks.gate_error_rates`. Seeds fixed, so no flakes."""

import numpy as np
import pytest

from benchmarks.gate_error_rates import GATE, WORLDS, planned_days, simulate
from services.validator.gate import Rows, judge
from shared.registry.states import ValidationState

BY_NAME = {w.name: w for w in WORLDS}
SIMULATIONS = 300
NOISE = 3 * 100 * np.sqrt(0.05 * 0.95 / SIMULATIONS)  # three standard errors of a 5 % rate, in points


@pytest.mark.parametrize("world", ["even days", "uneven days", "one day = half"])
@pytest.mark.parametrize("days", [3, 7, 14])
def test_a_model_worse_by_the_margin_passes_in_at_most_one_of_twenty(world: str, days: int) -> None:
    rates = simulate(BY_NAME[world], days, simulations=SIMULATIONS, seed=11)
    assert rates.worse_promoted <= 5 + NOISE
    assert rates.equal_rejected <= 5 + NOISE


def test_the_percentile_alone_would_not_keep_that_on_few_days() -> None:
    assert simulate(BY_NAME["even days"], 3, simulations=SIMULATIONS, seed=11).worse_promoted_by_percentile > 10


def test_equal_models_pass_at_the_planned_number_of_days() -> None:
    rates = simulate(BY_NAME["even days"], planned_days(), simulations=SIMULATIONS, seed=11)
    assert rates.equal_promoted >= 80 - 3 * 100 * np.sqrt(0.8 * 0.2 / SIMULATIONS)


def test_error_rate_on_log_losses_of_real_probabilities() -> None:
    """Bernoulli labels and a candidate whose logits carry just the noise that costs the margin on average."""
    rng = np.random.default_rng(5)
    scale = 0.2613  # found so that the expected log loss rises by 0.005 at these rates; checked below
    promoted, differences = 0, []
    for i in range(SIMULATIONS):
        days = np.repeat(np.arange(10), 300)
        logit = -1.5 + rng.normal(0, 1.0, days.size) + rng.normal(0, 0.5, 10)[days]
        p = 1 / (1 + np.exp(-logit))
        noisy = 1 / (1 + np.exp(-(logit + scale * rng.normal(size=days.size))))
        labels = (rng.random(days.size) < p).astype(float)
        outcome = judge(Rows(labels, noisy, days, p), task="binary", gate=GATE, seed=i, resamples=300)
        assert outcome.comparison is not None
        differences.append(outcome.comparison.mean)
        promoted += outcome.verdict is ValidationState.PASSED
    assert np.mean(differences) == pytest.approx(GATE.margin, abs=3 * np.std(differences) / np.sqrt(SIMULATIONS))
    assert 100 * promoted / SIMULATIONS <= 5 + NOISE
