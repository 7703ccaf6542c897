"""Error rates of the release gate by simulation: how often it promotes what is worse, and passes what is equal.

    python -m benchmarks.gate_error_rates [--simulations 2000] [--seed 1]

Each simulation draws days with a day effect (what a day's rows share) and row noise, in units of the log loss at the default
margin 0.005, and runs the gate's own code on them. Columns: `worse` = promoted though the true difference equals the margin
(to be at most 5 %), `rejected` = rejected though the models are truly equal (at most 5 %), `equal` = passed when equal
(power), and the same first figure for the plain bootstrap percentile alone, to show why it is not used alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.validator.gate import conclude
from services.validator.intervals import DayTotals, cluster_bounds, days_to_settle, resampled_means
from shared.registry.states import ValidationState
from shared.spec import GateSpec

GATE = GateSpec(margin=0.005, confidence=0.95)
ROW_SD = 0.08
DAY_SD = 0.006

DayEffects = Callable[[np.random.Generator, int], np.ndarray]


def normal_days(rng: np.random.Generator, days: int) -> np.ndarray:
    return rng.normal(size=days)


def rare_bad_days(rng: np.random.Generator, days: int) -> np.ndarray:
    """Standardised lognormal effects, skewness about 3.7: rare days on which the candidate fails badly."""
    effect = np.exp(0.8 * rng.normal(size=days))
    return (effect - np.exp(0.32)) / np.sqrt((np.exp(0.64) - 1) * np.exp(0.64))


def rare_good_days(rng: np.random.Generator, days: int) -> np.ndarray:
    """The same with the other sign: rare days on which the candidate shines."""
    return -rare_bad_days(rng, days)


def serial_days(rng: np.random.Generator, days: int) -> np.ndarray:
    """First-order autoregressive effects, correlation 0.4 from day to day: what resampling single days does not see."""
    effect = rng.normal(size=days)
    for day in range(1, days):
        effect[day] = 0.4 * effect[day - 1] + np.sqrt(1 - 0.4**2) * effect[day]
    return effect


def even_rows(rng: np.random.Generator, days: int) -> np.ndarray:
    return np.full(days, 200)


def uneven_rows(rng: np.random.Generator, days: int) -> np.ndarray:
    return np.maximum(5, np.round(200 * np.exp(rng.normal(0, 0.8, days)))).astype(np.int64)


def one_big_day(rng: np.random.Generator, days: int) -> np.ndarray:
    rows = np.full(days, 100)
    rows[0] = 100 * days
    return rows


@dataclass(frozen=True)
class World:
    """How days differ in size and in effect."""

    name: str
    rows: Callable[[np.random.Generator, int], np.ndarray]
    effects: DayEffects


WORLDS = [
    World("even days", even_rows, normal_days),
    World("uneven days", uneven_rows, normal_days),
    World("one day = half", one_big_day, normal_days),
    World("rare bad days", uneven_rows, rare_bad_days),
    World("rare good days", uneven_rows, rare_good_days),
    World("serial effects", even_rows, serial_days),
]
DAYS = [3, 5, 7, 14, 28]


@dataclass(frozen=True)
class Rates:
    """Shares of simulations, in percent."""

    worse_promoted: float
    equal_rejected: float
    equal_promoted: float
    worse_promoted_by_percentile: float


def simulate(world: World, days: int, *, simulations: int, seed: int, resamples: int = 500) -> Rates:
    """Run the gate on `simulations` draws of `days` days; `resamples` is smaller than in production for speed alone."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(4)
    for i in range(simulations):
        rows = world.rows(rng, days)
        noise = rows * DAY_SD * world.effects(rng, days) + np.sqrt(rows) * ROW_SD * rng.normal(size=days)
        equal, worse = (DayTotals(noise + rows * shift, rows) for shift in (0.0, GATE.margin))
        verdicts = [
            conclude(
                cluster_bounds(t, confidence=GATE.confidence, seed=i, resamples=resamples),
                t,
                task="binary",
                gate=GATE,
            ).verdict
            for t in (equal, worse)
        ]
        upper = np.quantile(resampled_means(worse, i, resamples), GATE.confidence)
        counts += [
            verdicts[1] is ValidationState.PASSED,
            verdicts[0] is ValidationState.REJECTED,
            verdicts[0] is ValidationState.PASSED,
            upper < GATE.margin,
        ]
    return Rates(*(100 * counts / simulations))


def planned_days() -> int:
    """Days after which equal models pass with probability 0.8 in the even world, by the formula the gate itself quotes."""
    per_day = np.sqrt(DAY_SD**2 + ROW_SD**2 / 200)
    return days_to_settle(GATE.margin, standard_error=float(per_day), days=1, confidence=GATE.confidence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    error = 100 * np.sqrt(0.05 * 0.95 / options.simulations)
    print(f"Margin {GATE.margin}, confidence {GATE.confidence}, {options.simulations} simulations a line.")
    print(
        f"Standard error of a 5 % rate: {error:.1f} points. Planned days for 80 % power (even days): {planned_days()}.\n"
    )
    print(
        f"{'world':16} {'days':>5} {'worse %':>8} {'rejected %':>11} {'equal %':>8} {'worse %, percentile alone':>26}"
    )
    for world in WORLDS:
        for days in sorted({*DAYS, planned_days()}):
            r = simulate(world, days, simulations=options.simulations, seed=options.seed)
            print(
                f"{world.name:16} {days:5d} {r.worse_promoted:8.1f} {r.equal_rejected:11.1f} {r.equal_promoted:8.1f} "
                f"{r.worse_promoted_by_percentile:26.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
