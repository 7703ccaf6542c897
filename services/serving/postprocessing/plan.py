"""A configuration compiled: what happens to single scores and to lists of candidates. Pure: the same candidates in any order give
the same list, and nothing on the removal list is ever in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.serving.postprocessing.columns import Columns, codes, compile_condition
from services.serving.postprocessing.diversify import pick
from services.serving.postprocessing.removals import Items, removed
from shared.spec.postprocessing import (
    SINGLE,
    BoostStage,
    CalibrateStage,
    CapStage,
    ClipStage,
    DemoteStage,
    DiversifyStage,
    FilterStage,
    Platt,
    Stage,
    ThresholdStage,
    TopStage,
)

REMOVAL = "removal"
"""What stands in a trace for the removal list, which is no stage."""

Rescore = Callable[[np.ndarray], np.ndarray]
Note = dict[str, Any]
"""What one stage did to one candidate: `stage` (its place; absent for the removal list), `type`, and the `score`, `tier` or
`position` after it, or `dropped`."""


@dataclass(slots=True)
class Singles:
    """Scores after the stages that apply to each alone."""

    scores: list[float | None]
    """None where the row is on the removal list."""
    decisions: list[bool | None] | None
    """None without a threshold."""


@dataclass(slots=True)
class Ranked:
    """A list in order."""

    order: list[int]
    """Indices of the candidates, first to last."""
    scores: list[float]
    """Of every candidate, as far as it came."""
    notes: list[list[Note]] | None
    """By candidate, when a trace was asked for."""


class _Candidates:
    """A list on its way: arrays by candidate in order of their keys, and who is still in."""

    def __init__(self, scores: np.ndarray, columns: Columns) -> None:
        self.scores = scores
        self.columns = columns
        self.tiers = np.zeros(len(scores), np.int64)
        self.at = np.arange(len(scores))
        """Candidates that are in; in order when `ordered`."""
        self.ordered = False

    def order(self) -> None:
        """By tier, then by falling score, then by key."""
        if self.ordered:
            return
        at = np.sort(self.at)
        at = at[np.argsort(-self.scores[at], kind="stable")]
        if self.tiers.any():
            at = at[np.argsort(self.tiers[at], kind="stable")]
        self.at, self.ordered = at, True


Step = Callable[[_Candidates], None]


class Plan:
    """Compiled stages and the removal list under them."""

    def __init__(self, stages: Sequence[Stage], items: Items) -> None:
        self.items = items
        self._singles = [_single(stage) for stage in stages if isinstance(stage, SINGLE)]
        self._steps = [(stage.type, _step(stage)) for stage in stages]

    @property
    def touches_singles(self) -> bool:
        """Whether it does anything to single scores."""
        return bool(self._singles or self.items)

    @property
    def touches_lists(self) -> bool:
        """Whether it does anything to lists but order them."""
        return bool(self._steps or self.items)

    def single(self, raw: Sequence[float], keys: Sequence[str], columns: Columns) -> Singles:
        """Process scores, each for itself.

        Args:
            raw: the model's scores, finite.
            keys: of the rows.
            columns: fields of the rows.
        """
        scores, decided = np.array(raw, np.float64), None
        for rescore, threshold in self._singles:
            if rescore is not None:
                scores = rescore(scores)
            else:
                decided = scores >= threshold
        final: list[float | None] = scores.tolist()
        decisions: list[bool | None] | None = None if decided is None else decided.tolist()
        gone = removed(self.items, keys, columns)
        if gone is not None:
            for index in np.flatnonzero(gone).tolist():
                final[index] = None
                if decisions is not None:
                    decisions[index] = None
        return Singles(final, decisions)

    def rank(
        self, raw: Sequence[float], keys: list[str], columns: Columns, *, k: int | None = None, trace: bool = False
    ) -> Ranked:
        """Order candidates, best first.

        Args:
            raw: the model's scores, finite.
            keys: of the candidates; no two are equal.
            columns: fields of the candidates.
            k: most candidates in the list.
            trace: whether to note what each stage did.
        """
        if sorted(keys) != keys:
            by_key = sorted(range(len(keys)), key=keys.__getitem__)
            # Everything is done in the order of keys: not even a rounding may depend on the order of input.
            ranked = self.rank(
                [raw[index] for index in by_key],
                [keys[index] for index in by_key],
                _Rearranged(columns, by_key),
                k=k,
                trace=trace,
            )
            return _given_back(ranked, by_key)
        candidates = _Candidates(np.array(raw, np.float64), columns)
        tracer = _Tracer(candidates) if trace else None
        gone = removed(self.items, keys, columns)
        if gone is not None:
            # First, so that what is removed takes no place from others; and last, whatever the stages do.
            candidates.at = candidates.at[~gone]
            if tracer is not None:
                tracer.look(None, REMOVAL)
        for place, (kind, step) in enumerate(self._steps):
            step(candidates)
            if tracer is not None:
                tracer.look(place, kind)
        candidates.order()
        at = candidates.at
        if gone is not None:
            at = at[~gone[at]]
        return Ranked(at[:k].tolist(), candidates.scores.tolist(), None if tracer is None else tracer.notes)


# Stages


def _single(stage: Stage) -> tuple[Rescore | None, float]:
    if isinstance(stage, ThresholdStage):
        return None, stage.at
    return _rescore(stage), 0.0


def _rescore(stage: Stage) -> Rescore:
    match stage:
        case ClipStage():
            low, high = stage.low, stage.high
            return lambda scores: np.clip(scores, low, high)
        case CalibrateStage(platt=Platt() as platt):
            return lambda scores: _platt(scores, platt)
        case CalibrateStage(points=points):
            given, mapped = np.array(points, np.float64).T.copy()
            return lambda scores: np.interp(scores, given, mapped)
        case _:
            raise TypeError(f"{stage.type} is not for single scores")


_ABOVE_0, _BELOW_1 = np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)


def _platt(scores: np.ndarray, platt: Platt) -> np.ndarray:
    inside = np.clip(scores, _ABOVE_0, _BELOW_1)
    odds = platt.slope * (np.log(inside) - np.log1p(-inside)) + platt.intercept
    calibrated: np.ndarray = 0.5 * (1 + np.tanh(0.5 * odds))  # the logistic function, which overflows nowhere
    return calibrated


def _step(stage: Stage) -> Step:
    """The stage over candidates."""
    match stage:
        case ClipStage() | CalibrateStage():
            rescore = _rescore(stage)

            def step(candidates: _Candidates) -> None:
                candidates.scores = rescore(candidates.scores)
                candidates.ordered = False

        case ThresholdStage(at=threshold):

            def step(candidates: _Candidates) -> None:
                candidates.at = candidates.at[candidates.scores[candidates.at] >= threshold]

        case FilterStage(keep=keep, drop=drop):
            holds, wanted = compile_condition(keep or drop), keep is not None  # type: ignore[arg-type]

            def step(candidates: _Candidates) -> None:
                candidates.at = candidates.at[holds(candidates.columns)[candidates.at] == wanted]

        case BoostStage(where=where, multiply=multiply, add=add):
            boosted = compile_condition(where)

            def step(candidates: _Candidates) -> None:
                scores = candidates.scores
                candidates.scores = np.where(boosted(candidates.columns), scores * multiply + add, scores)
                candidates.ordered = False

        case DemoteStage(where=where):
            demoted = compile_condition(where)

            def step(candidates: _Candidates) -> None:
                candidates.tiers = candidates.tiers + demoted(candidates.columns)
                candidates.ordered = False

        case DiversifyStage():

            def step(candidates: _Candidates) -> None:
                _diversify(stage, candidates)

        case CapStage(field=name, most=most):

            def step(candidates: _Candidates) -> None:
                candidates.order()
                candidates.at = candidates.at[_within(codes(candidates.columns.values(name))[candidates.at], most)]

        case TopStage(k=k):

            def step(candidates: _Candidates) -> None:
                candidates.order()
                candidates.at = candidates.at[:k]

    return step


def _diversify(stage: DiversifyStage, candidates: _Candidates) -> None:
    candidates.order()
    at, columns = candidates.at, candidates.columns
    chosen = pick(
        candidates.scores[at],
        candidates.tiers[at],
        k=stage.k,
        weight=stage.relevance_weight,
        groups=[codes(columns.values(name))[at] for name in stage.fields],
        vectors=None if stage.vector is None else columns.vectors(stage.vector)[at],
    )
    candidates.at = at[chosen]


def _within(groups: np.ndarray, most: int) -> np.ndarray:
    """Which are among the first `most` of their group, bool [n]; all of group -1 are."""
    by_group = np.argsort(groups, kind="stable")
    sorted_groups = groups[by_group]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]) if len(groups) else groups
    place = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    kept = np.empty(len(groups), bool)
    kept[by_group] = (place < most) | (sorted_groups < 0)
    return kept


# Order of input, and traces


class _Rearranged:
    """Columns of the same rows in another order."""

    def __init__(self, columns: Columns, order: list[int]) -> None:
        self._columns = columns
        self._order = order

    def values(self, name: str) -> list[Any]:
        values = self._columns.values(name)
        return [values[index] for index in self._order]

    def vectors(self, name: str) -> np.ndarray:
        return self._columns.vectors(name)[self._order]


def _given_back(ranked: Ranked, by_key: list[int]) -> Ranked:
    """In terms of the indices as given."""
    scores = [0.0] * len(by_key)
    notes: list[list[Note]] = [[] for _ in by_key]
    for place, index in enumerate(by_key):
        scores[index] = ranked.scores[place]
        if ranked.notes is not None:
            notes[index] = ranked.notes[place]
    return Ranked([by_key[place] for place in ranked.order], scores, None if ranked.notes is None else notes)


@dataclass(slots=True)
class _Tracer:
    """Looks after each stage at what became of the candidates."""

    candidates: _Candidates
    notes: list[list[Note]] = field(init=False)
    _scores: np.ndarray = field(init=False)
    _tiers: np.ndarray = field(init=False)
    _inside: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.notes = [[] for _ in self.candidates.scores]
        self._remember()
        self._inside = np.ones(len(self.notes), bool)

    def _remember(self) -> None:
        self._scores, self._tiers = self.candidates.scores, self.candidates.tiers

    def look(self, place: int | None, kind: str) -> None:
        """Note what is different since the last look."""
        now = self.candidates
        said: Note = {"type": kind} if place is None else {"stage": place, "type": kind}
        inside = np.zeros(len(self.notes), bool)
        inside[now.at] = True
        for index in np.flatnonzero(self._inside & ~inside).tolist():
            self.notes[index].append({**said, "dropped": True})
        for index in np.flatnonzero(inside & (now.scores != self._scores)).tolist():
            self.notes[index].append({**said, "score": now.scores[index].item()})
        for index in np.flatnonzero(inside & (now.tiers != self._tiers)).tolist():
            self.notes[index].append({**said, "tier": now.tiers[index].item()})
        if kind == "diversify":
            for position, index in enumerate(now.at.tolist(), start=1):
                self.notes[index].append({**said, "position": position})
        self._inside = inside
        self._remember()
