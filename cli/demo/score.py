"""What was predicted and what came true: the ledger of a replay, scored per period and over all of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cli.demo.plan import Period
from shared.evaluation import Quality, evaluate

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answers:
    """Answered flights, [n] each: the label (NaN: cancelled or diverted) and the scores of both models."""

    period: Integers
    label: Floats
    live_version: Integers
    live: Floats
    frozen: Floats


@dataclass(frozen=True, slots=True)
class PeriodScore:
    """One row of the final table. Quality is over the flights whose outcome is known."""

    period: Period
    cycle: str
    """How the cycle ended that began the period."""
    flights: int
    versions: tuple[int, ...]
    """The versions that answered live, oldest first."""
    live: Quality
    frozen: Quality


class Ledger:
    """Collects the answers of a replay, a day at a time."""

    def __init__(self) -> None:
        self._days: list[Answers] = []

    def add(self, answers: Answers) -> None:
        """Append the answers of one day."""
        self._days.append(answers)

    def all(self) -> Answers:
        """Every answer so far, in the order of the days."""
        return Answers(
            period=np.concatenate([np.empty(0, np.int64), *(day.period for day in self._days)]),
            label=np.concatenate([np.empty(0), *(day.label for day in self._days)]),
            live_version=np.concatenate([np.empty(0, np.int64), *(day.live_version for day in self._days)]),
            live=np.concatenate([np.empty(0), *(day.live for day in self._days)]),
            frozen=np.concatenate([np.empty(0), *(day.frozen for day in self._days)]),
        )


def quality(answers: Answers, rows: NDArray[np.bool_] | None = None) -> tuple[Quality, Quality]:
    """The live answers' quality and the frozen model's, over those of `rows` (default: all) whose outcome is known."""
    known = ~np.isnan(answers.label)
    if rows is not None:
        known &= rows
    label = answers.label[known]
    return evaluate("binary", label, answers.live[known]), evaluate("binary", label, answers.frozen[known])


def by_period(answers: Answers, periods: Sequence[Period], cycles: Mapping[int, str]) -> list[PeriodScore]:
    """One row for each period that has answers; `cycles` says by period number how its cycle ended."""
    rows = []
    for period in periods:
        here = answers.period == period.number
        if here.any():
            live, frozen = quality(answers, here)
            rows.append(
                PeriodScore(
                    period=period,
                    cycle=cycles.get(period.number, "none"),
                    flights=int(here.sum()),
                    versions=tuple(int(version) for version in np.unique(answers.live_version[here])),
                    live=live,
                    frozen=frozen,
                )
            )
    return rows
