"""Made-up candidates and stages, small enough that all values meet: ties, missing values, groups of one and of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pydantic import TypeAdapter

from benchmarks.serving.plain_ranking import Item
from services.serving.postprocessing.plan import Plan, Ranked
from shared.spec.postprocessing import Stage, Stages

STAGES: TypeAdapter[list[Stage]] = TypeAdapter(Stages)
LENGTH = 3

shops = st.sampled_from(["a", "b", "c", None])
prices = st.sampled_from([0.0, 1.0, 2.5, 7, None])
conditions = st.one_of(
    st.fixed_dictionaries({"field": st.just("shop"), "one_of": st.lists(st.sampled_from("abcd"), min_size=1)}),
    st.fixed_dictionaries({"field": st.just("price"), "at_least": st.sampled_from([0, 1, 2])}),
    st.fixed_dictionaries({"field": st.sampled_from(["price", "shop"]), "at_most": st.sampled_from([1.0, 7.0])}),
    st.fixed_dictionaries({"field": st.just("price"), "one_of": st.just([1, 2.5]), "at_most": st.just(2)}),
)
before_order = st.one_of(
    st.sampled_from(
        [
            {"type": "clip", "low": 0.25},
            {"type": "clip", "low": -1, "high": 0.5},
            {"type": "calibrate", "points": [(0, 0.5), (0.5, 0.25), (1, 2)]},
            {"type": "threshold", "at": 0.375},
        ]
    ),
    conditions.map(lambda where: {"type": "filter", "keep": where}),
    conditions.map(lambda where: {"type": "filter", "drop": where}),
    conditions.map(lambda where: {"type": "boost", "where": where, "multiply": 2, "add": -0.125}),
    conditions.map(lambda where: {"type": "demote", "where": where}),
    st.builds(lambda most: {"type": "cap", "field": "shop", "most": most}, st.integers(1, 4)),
    st.builds(lambda k: {"type": "top", "k": k}, st.integers(1, 20)),
)
platt = st.just({"type": "calibrate", "platt": {"slope": 1.5, "intercept": -0.2}})
diversify = st.fixed_dictionaries(
    {"type": st.just("diversify"), "k": st.integers(1, 12), "relevance_weight": st.sampled_from([0, 0.3, 0.7, 1])},
    optional={"vector": st.just("look")},
).flatmap(
    lambda stage: st.sampled_from([["shop"], ["shop", "price"], [] if "vector" in stage else ["price"]]).map(
        lambda fields: {**stage, "fields": fields}
    )
)
after_order = st.sampled_from([{"type": "cap", "field": "price", "most": 1}, {"type": "top", "k": 3}])

exact_stages = st.lists(before_order, max_size=6).map(STAGES.validate_python)
"""Whose results are the same in any arithmetic, as long as scores are multiples of 1/8."""
any_stages = st.tuples(
    st.lists(before_order | platt, max_size=4), st.lists(diversify, max_size=1), st.lists(after_order, max_size=2)
).map(lambda parts: STAGES.validate_python([stage for part in parts for stage in part]))


@st.composite
def items(draw: st.DrawFn, most: int = 25) -> list[Item]:
    keys = draw(st.lists(st.integers(0, 99), max_size=most, unique=True))
    return [
        Item(
            f"k{key}",
            {
                "shop": draw(shops),
                "price": draw(prices),
                "look": draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=LENGTH, max_size=LENGTH)),
            },
            draw(st.integers(0, 8)) / 8,
        )
        for key in keys
    ]


@dataclass
class ItemColumns:
    """Columns of items."""

    items: Sequence[Item]

    def values(self, name: str) -> list[Any]:
        return [item.fields.get(name) for item in self.items]

    def vectors(self, name: str) -> np.ndarray:
        return np.array([item.fields[name] for item in self.items], np.float32).reshape(-1, LENGTH)


def ranked(plan: Plan, given: Sequence[Item], **options: Any) -> Ranked:
    """What a plan makes of items."""
    return plan.rank([item.score for item in given], [item.key for item in given], ItemColumns(given), **options)


def shown(plan: Plan, given: Sequence[Item], **options: Any) -> list[tuple[str, float]]:
    """Keys and scores of the list."""
    found = ranked(plan, given, **options)
    return [(given[index].key, found.scores[index]) for index in found.order]
