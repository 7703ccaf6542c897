"""A configuration compiled: what happens to single scores and to lists of candidates. Pure: the same candidates in any order give
the same list, and nothing on the removal list is ever in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.serving.postprocessing.candidates import Candidates, compile_step
from services.serving.postprocessing.columns import Columns
from services.serving.postprocessing.removals import Items, removed
from services.serving.postprocessing.scores import rescore
from shared.spec.postprocessing import SINGLE, Stage, ThresholdStage

REMOVAL = "removal"
"""What stands in a trace for the removal list, which is no stage."""

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


class Plan:
    """Compiled stages and the removal list under them."""

    def __init__(self, stages: Sequence[Stage], items: Items) -> None:
        self.items = items
        self._singles = [
            stage.at if isinstance(stage, ThresholdStage) else rescore(stage)
            for stage in stages
            if isinstance(stage, SINGLE)
        ]
        self._steps = [(stage.type, compile_step(stage)) for stage in stages]

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
        for stage in self._singles:
            if isinstance(stage, float):
                decided = scores >= stage
            else:
                scores = stage(scores)
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
        candidates = Candidates(np.array(raw, np.float64), columns)
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

    candidates: Candidates
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
