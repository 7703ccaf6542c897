"""A list on its way through the stages, and each kind of stage as a step over it: arrays by candidate, in the order of the keys."""

from collections.abc import Callable
from typing import Any

import numpy as np

from services.serving.postprocessing.columns import Columns, codes, compile_condition
from services.serving.postprocessing.diversify import pick
from services.serving.postprocessing.scores import rescore
from shared.spec.postprocessing import (
    BoostStage,
    CalibrateStage,
    CapStage,
    ClipStage,
    DemoteStage,
    DiversifyStage,
    FilterStage,
    Stage,
    ThresholdStage,
    TopStage,
)


class Candidates:
    """The scores of all candidates, and who is still in."""

    def __init__(self, scores: np.ndarray, columns: Columns) -> None:
        self.scores = scores
        self.tiers = np.zeros(len(scores), np.int64)
        """How often each was demoted."""
        self.at = np.arange(len(scores))
        """Candidates that are in; in order when `ordered`."""
        self.ordered = False
        self._columns = columns
        self._read: dict[str, list[Any]] = {}

    def values(self, name: str) -> list[Any]:
        """As `Columns.values`, read once."""
        values = self._read.get(name)
        if values is None:
            values = self._read[name] = self._columns.values(name)
        return values

    def vectors(self, name: str) -> np.ndarray:
        """As `Columns.vectors`."""
        return self._columns.vectors(name)

    def order(self) -> None:
        """By tier, then by falling score, then by key."""
        if self.ordered:
            return
        at = np.sort(self.at)
        at = at[np.argsort(-self.scores[at], kind="stable")]
        if self.tiers.any():
            at = at[np.argsort(self.tiers[at], kind="stable")]
        self.at, self.ordered = at, True


Step = Callable[[Candidates], None]


def compile_step(stage: Stage) -> Step:
    """The stage over candidates."""
    match stage:
        case ClipStage() | CalibrateStage():
            rescored = rescore(stage)

            def step(candidates: Candidates) -> None:
                candidates.scores = rescored(candidates.scores)
                candidates.ordered = False

        case ThresholdStage(at=threshold):

            def step(candidates: Candidates) -> None:
                candidates.at = candidates.at[candidates.scores[candidates.at] >= threshold]

        case FilterStage(keep=keep, drop=drop):
            holds, wanted = compile_condition(keep or drop), keep is not None  # type: ignore[arg-type]

            def step(candidates: Candidates) -> None:
                candidates.at = candidates.at[holds(candidates)[candidates.at] == wanted]

        case BoostStage(where=where, multiply=multiply, add=add):
            boosted = compile_condition(where)

            def step(candidates: Candidates) -> None:
                scores = candidates.scores
                candidates.scores = np.where(boosted(candidates), scores * multiply + add, scores)
                candidates.ordered = False

        case DemoteStage(where=where):
            demoted = compile_condition(where)

            def step(candidates: Candidates) -> None:
                candidates.tiers = candidates.tiers + demoted(candidates)
                candidates.ordered = False

        case DiversifyStage():

            def step(candidates: Candidates) -> None:
                _diversify(stage, candidates)

        case CapStage(field=name, most=most):

            def step(candidates: Candidates) -> None:
                candidates.order()
                candidates.at = candidates.at[_within(codes(candidates.values(name))[candidates.at], most)]

        case TopStage(k=k):

            def step(candidates: Candidates) -> None:
                candidates.order()
                candidates.at = candidates.at[:k]

    return step


def _diversify(stage: DiversifyStage, candidates: Candidates) -> None:
    candidates.order()
    at = candidates.at
    chosen = pick(
        candidates.scores[at],
        candidates.tiers[at],
        k=stage.k,
        weight=stage.relevance_weight,
        groups=[codes(candidates.values(name))[at] for name in stage.fields],
        vectors=None if stage.vector is None else candidates.vectors(stage.vector).take(at, 0),
    )
    candidates.at = at[chosen]


def _within(groups: np.ndarray, most: int) -> np.ndarray:
    """Which are among the first `most` of their group, bool [n]; all of group -1 are."""
    by_group = np.argsort(groups, kind="stable")
    in_groups = groups[by_group]
    begins = np.ones(len(groups), bool)
    np.not_equal(in_groups[1:], in_groups[:-1], out=begins[1:])
    place = np.arange(len(groups)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    kept = np.empty(len(groups), bool)
    kept[by_group] = (place < most) | (in_groups < 0)
    return kept
