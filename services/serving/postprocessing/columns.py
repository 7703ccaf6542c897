"""What post-processing reads of rows: a field's values, as masks and as codes."""

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from math import nan
from types import NoneType
from typing import Any, Protocol

import numpy as np

from shared.spec.postprocessing import Condition


class Columns(Protocol):
    """The fields of n rows, read when they are asked for."""

    def values(self, name: str) -> list[Any]:
        """A field's n values as in the rows: text, number, true or false, epoch microseconds for a time, None where missing. A
        field that the rows cannot have is missing in all of them.
        """

    def vectors(self, name: str) -> np.ndarray:
        """A vector feature, float32 [n, length]; zeros where the rows cannot have it."""


_NUMBERS = frozenset({int, float, NoneType})
"""Types of values that are compared as numbers, and of none."""

Mask = Callable[[Columns], np.ndarray]
"""For which of n rows something holds, bool [n]."""


def compile_condition(condition: Condition) -> Mask:
    """The condition over columns."""
    tests: list[Callable[[list[Any]], np.ndarray]] = []
    if condition.one_of is not None:
        tests.append(_one_of(condition.one_of))
    if condition.at_least is not None or condition.at_most is not None:
        tests.append(_between(condition.at_least, condition.at_most))
    name = condition.field

    def holds(columns: Columns) -> np.ndarray:
        values = columns.values(name)
        mask = tests[0](values)
        for test in tests[1:]:
            mask &= test(values)
        return mask

    return holds


def _one_of(listed: list[Any]) -> Callable[[list[Any]], np.ndarray]:
    contains = frozenset(listed).__contains__
    return lambda values: np.fromiter(map(contains, values), bool, len(values))


def _between(low: float | None, high: float | None) -> Callable[[list[Any]], np.ndarray]:
    def holds(values: list[Any]) -> np.ndarray:
        if not set(map(type, values)) <= _NUMBERS:
            values = [value if type(value) in _NUMBERS else nan for value in values]
        numbers = np.array(values, float)  # None becomes NaN
        mask = ~np.isnan(numbers) if low is None else numbers >= low
        if high is not None:
            mask &= numbers <= high
        return mask

    return holds


def codes(values: list[Any]) -> np.ndarray:
    """Equal values as equal numbers from 0 on, int64 [n]; -1 where missing."""
    known: defaultdict[Any, int] = defaultdict(count().__next__, {None: -1})
    return np.fromiter(map(known.__getitem__, values), np.int64, len(values))


def text_of(value: object) -> str | None:
    """A field's value as removals know it, None where missing. What a sender may write as a number or a text, 7 or 7.0 or "7", is
    one text: what the law removes must not slip through by its type.
    """
    if type(value) is str:
        return value
    if value is None:
        return None
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float and value.is_integer():
        return str(int(value))
    return str(value)
