"""Maximal marginal relevance, greedy and exact: each pick costs one pass over the candidates, not one over all pairs, and the
likenesses of the best are computed together.

J. Carbonell and J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries",
SIGIR 1998.
"""

from collections.abc import Sequence

import numpy as np

AHEAD = 64
"""So many of the best are likely enough to be picked for their likenesses to be computed at once."""
MOST_KINDS = 256
"""Combinations of groups of which what is left is kept."""
SMALL, LARGE = 1e-20, 1e20
"""Squares of lengths that float32 holds with all its digits."""


def pick(
    scores: np.ndarray,
    tiers: np.ndarray,
    *,
    k: int,
    weight: float,
    groups: Sequence[np.ndarray],
    vectors: np.ndarray | None,
) -> list[int]:
    """Which candidates to take, in the order of taking; of equal ones the earlier.

    Args:
        scores: float64 [n], best first within a tier.
        tiers: int [n], rising: all of a lower one are taken before any of the next.
        k: most to take.
        weight: of relevance, in [0, 1]; of similarity 1 - weight.
        groups: int [n] each: two candidates are alike in one when they have the same number from 0; -1 is like nothing.
        vectors: float32 [n, d], which are overwritten: alike by cosine; zeros are like nothing.
    """
    count = len(scores)
    if count == 0:
        return []
    low, high = scores.min(), scores.max()
    worth = np.zeros(count, np.float32)
    if high > low:
        worth += (scores - low) * (weight / (high - low))
    left = _Left(worth, (1 - weight) / (len(groups) + (vectors is not None)), groups, vectors, k=k)
    gain = np.full(count, np.inf, np.float32)
    ends = [*(np.flatnonzero(np.diff(tiers)) + 1).tolist(), count]
    picked: list[int] = []
    minimum, beside = np.minimum, left.beside
    begin = best = 0
    for end in ends:
        of_tier = gain[begin:end]
        for _ in range(min(k - len(picked), end - begin)):
            if picked:
                # The pick that it is most like counts: the least of a candidate's gains so far.
                minimum(gain, beside(best), out=gain)
                best = begin + int(of_tier.argmax())
            picked.append(best)
            gain[best] = -np.inf
        begin = end
    return picked


class _Left:
    """What is left of each candidate's worth beside one that was picked."""

    def __init__(
        self, worth: np.ndarray, share: float, groups: Sequence[np.ndarray], vectors: np.ndarray | None, *, k: int
    ) -> None:
        self._worth = worth
        self._groups = [_Likeness(group, share) for group in groups]
        self._row = np.empty(len(worth), np.float32)
        self._unit = None if vectors is None else _unit(vectors, share)
        self._best: list[np.ndarray] = []
        self._by_groups: dict[tuple[int, ...], np.ndarray] = {}
        if self._unit is not None:
            # In one product: it costs a third of as many for one candidate each.
            best = self._unit[: min(AHEAD, k + k // 4)] @ self._unit.T
            self._best = list(np.subtract(worth, best, out=best))

    def beside(self, index: int) -> np.ndarray:
        """Worth less likeness to one candidate, float32 [n]; good until the next call."""
        if self._unit is None:
            return self._beside_groups(index)
        if index < len(self._best):
            left = self._best[index]
        else:
            left = np.subtract(self._worth, np.dot(self._unit, self._unit[index], out=self._row), out=self._row)
        for group in self._groups:
            left = np.subtract(left, group.of(index), out=self._row)
        return left

    def _beside_groups(self, index: int) -> np.ndarray:
        """The same for all candidates of the same groups, where nothing else makes them alike."""
        kind = tuple([group.numbers[index] for group in self._groups])
        left = self._by_groups.get(kind)
        if left is None:
            left = self._worth
            for group in self._groups:
                left = left - group.of(index)
            if len(self._by_groups) < MOST_KINDS:
                self._by_groups[kind] = left
        return left


class _Likeness:
    """Who is in one group with whom, a row for each group that something was picked from."""

    def __init__(self, groups: np.ndarray, share: float) -> None:
        self._groups = groups
        self.numbers: list[int] = groups.tolist()
        """The group of each candidate; -1: none."""
        self._share = np.float32(share)
        self._rows = {-1: np.zeros(len(groups), np.float32)}

    def of(self, index: int) -> np.ndarray:
        """`share` for those that are like a candidate, else 0; float32 [n]."""
        group = self.numbers[index]
        row = self._rows.get(group)
        if row is None:
            row = self._rows[group] = (self._groups == group) * self._share
        return row


def _unit(vectors: np.ndarray, share: float) -> np.ndarray:
    """Rows whose products are `share` times their cosine."""
    with np.errstate(over="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    if not (squares.min() > SMALL and squares.max() < LARGE):
        vectors = vectors.astype(np.float64)
        squares = np.einsum("ij,ij->i", vectors, vectors)
    scale = np.divide(share, squares, out=np.zeros_like(squares), where=squares > 0)
    # In place: memory that nothing was in yet costs more than what is computed.
    vectors *= np.sqrt(scale, out=scale)[:, None]
    return vectors.astype(np.float32, copy=False)
