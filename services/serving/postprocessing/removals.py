"""The removal list: items that no answer may hold, by key or by another field. Grows and shrinks by numbered changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from services.serving.postprocessing.columns import Columns, text_of

KEY = ""
"""The field that stands for the key, whatever it is called."""

Items = Mapping[str, frozenset[str]]
"""Texts by field (`KEY` for the key), as `text_of` writes them."""


@dataclass(frozen=True, slots=True)
class Change:
    """Items removed or reinstated together."""

    sequence: int
    removes: bool
    field: str
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Removals:
    """The list after a change."""

    sequence: int = 0
    """Number of the last change; 0 before the first."""
    items: Items = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Items on the list."""
        return sum(map(len, self.items.values()))

    def after(self, changes: Iterable[Change]) -> "Removals":
        """The list after further changes, by rising sequence."""
        items, sequence = dict(self.items), self.sequence
        for change in changes:
            now = items.get(change.field, frozenset())
            now = now.union(change.items) if change.removes else now.difference(change.items)
            items[change.field] = now
            if not now:
                del items[change.field]
            sequence = change.sequence
        return self if sequence == self.sequence else Removals(sequence, items)


def removed(items: Items, keys: Sequence[str], columns: Columns) -> np.ndarray | None:
    """Which of n rows are on the list, bool [n]; None when none is."""
    found: np.ndarray | None = None
    for name, listed in items.items():
        texts = keys if name == KEY else list(map(text_of, columns.values(name)))
        here = listed.intersection(texts)  # mostly nothing
        if here:
            mask = np.fromiter(map(here.__contains__, texts), bool, len(keys))
            found = mask if found is None else found | mask
    return found
