"""Stages over lists mean what the plain version says, in whatever order candidates come, and nothing removed ever comes out."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serving import plain_ranking as plain
from benchmarks.serving.plain_ranking import Item
from services.serving.postprocessing.plan import Plan
from services.serving.postprocessing.removals import KEY
from shared.spec.postprocessing import CapStage, DiversifyStage, Stage, TopStage
from tests.unit.serving.postprocessing.lists import (
    STAGES,
    ItemColumns,
    any_stages,
    exact_stages,
    items,
    ranked,
    shown,
)


@settings(max_examples=300)
@given(
    given_items=items(), stages=exact_stages, gone=st.sets(st.integers(0, 99).map("k{}".format)), k=st.integers(1, 30)
)
def test_stages_mean_what_the_plain_version_says(
    given_items: list[Item], stages: list[Stage], gone: set[str], k: int
) -> None:
    plan = Plan(stages, {KEY: frozenset(gone)} if gone else {})
    expected = plain.rank(given_items, stages, gone, k)
    assert shown(plan, given_items, k=k) == [(item.key, item.score) for item in expected]


@settings(max_examples=300)
@given(given_items=items(), stages=any_stages, seed=st.integers(0, 2**32), trace=st.booleans())
def test_the_order_of_input_does_not_matter(
    given_items: list[Item], stages: list[Stage], seed: int, trace: bool
) -> None:
    plan = Plan(stages, {"shop": frozenset({"b"})})
    shuffled = random.Random(seed).sample(given_items, len(given_items))
    one, other = ranked(plan, given_items, trace=trace), ranked(plan, shuffled, trace=trace)
    assert [given_items[index].key for index in one.order] == [shuffled[index].key for index in other.order]
    by_key = {item.key: place for place, item in enumerate(shuffled)}
    for place, item in enumerate(given_items):
        assert one.scores[place] == other.scores[by_key[item.key]]
        if one.notes is not None and other.notes is not None:
            assert one.notes[place] == other.notes[by_key[item.key]]


@settings(max_examples=200)
@given(given_items=items(40), stages=any_stages, gone=st.sets(st.integers(0, 99).map("k{}".format), min_size=1))
def test_removals_caps_and_k_hold_whatever_the_stages_are(
    given_items: list[Item], stages: list[Stage], gone: set[str]
) -> None:
    plan = Plan(stages, {KEY: frozenset(gone), "price": frozenset({"7"})})
    out = [given_items[index] for index in ranked(plan, given_items, k=10).order]
    assert len(out) <= 10
    assert len({item.key for item in out}) == len(out)
    assert not gone & {item.key for item in out}
    assert all(item.fields["price"] != 7 for item in out)
    for stage in stages:
        if isinstance(stage, TopStage | DiversifyStage):
            assert len(out) <= stage.k
        if isinstance(stage, CapStage):
            counts = Counter(item.fields[stage.field] for item in out if item.fields[stage.field] is not None)
            assert all(count <= stage.most for count in counts.values())


@settings(max_examples=200)
@given(given_items=items(), stages=any_stages)
def test_each_diverse_pick_is_the_best_that_is_left(given_items: list[Item], stages: list[Stage]) -> None:
    stage = next((stage for stage in stages if isinstance(stage, DiversifyStage)), None)
    if stage is None:
        return
    left = plain.in_order(given_items)
    scores = [item.score for item in left]
    low, high = min(scores, default=0), max(scores, default=0)
    picked: list[Item] = []
    for key, _ in shown(Plan([stage], {}), given_items):
        # By the definition: everything that is left with everything that was picked.
        alike = {item.key: [plain.similarity(item, other, stage) for other in picked] for item in left}
        gains = {item.key: plain.gain(item, max(alike[item.key], default=0), low, high, stage) for item in left}
        assert gains[key] >= max(gains.values()) - 1e-5
        picked.append(next(item for item in left if item.key == key))
        left = [item for item in left if item.key != key]
    assert len(picked) == min(stage.k, len(given_items))


def test_of_equal_ones_the_smaller_key_comes_first() -> None:
    given_items = [Item(key, {"shop": "a", "look": [1, 1, 1]}, 0.5) for key in ("c", "a", "b")]
    for stages in ([], [{"type": "diversify", "k": 3, "vector": "look"}], [{"type": "top", "k": 3}]):
        assert [key for key, _ in shown(Plan(STAGES.validate_python(stages), {}), given_items)] == ["a", "b", "c"]


def test_the_demoted_are_diverse_among_themselves_below_the_others() -> None:
    given_items = [Item(f"k{n}", {"shop": "ab"[n % 2], "price": float(n > 3)}, 1 - n / 10) for n in range(8)]
    stages = STAGES.validate_python(
        [
            {"type": "demote", "where": {"field": "price", "at_most": 0}},
            {"type": "diversify", "k": 6, "fields": ["shop"], "relevance_weight": 0.5},
        ]
    )
    assert [key for key, _ in shown(Plan(stages, {}), given_items)] == ["k4", "k5", "k6", "k7", "k0", "k1"]


def test_a_trace_says_what_each_stage_did() -> None:
    given_items = [Item(f"k{n}", {"shop": "abc"[n % 3], "price": n}, n / 8) for n in range(6)]
    stages = STAGES.validate_python(
        [
            {"type": "boost", "where": {"field": "shop", "one_of": ["a"]}, "add": 1},
            {"type": "filter", "drop": {"field": "price", "at_least": 5}},
            {"type": "demote", "where": {"field": "price", "at_most": 3}},
            {"type": "top", "k": 2},
        ]
    )
    plan = Plan(stages, {KEY: frozenset({"k2"})})
    notes = ranked(plan, given_items, trace=True).notes
    assert notes is not None
    assert notes[2] == [{"type": "removal", "dropped": True}]
    assert notes[5] == [{"stage": 1, "type": "filter", "dropped": True}]
    assert notes[3] == [{"stage": 0, "type": "boost", "score": 1.375}, {"stage": 2, "type": "demote", "tier": 1}]
    assert notes[1] == [{"stage": 2, "type": "demote", "tier": 1}, {"stage": 3, "type": "top", "dropped": True}]
    assert notes[4] == []
    assert ranked(plan, given_items).notes is None


@settings(max_examples=200)
@given(given_items=items(), stages=any_stages, gone=st.sets(st.integers(0, 99).map("k{}".format)))
def test_single_scores_go_through_their_stages_alone(
    given_items: list[Item], stages: list[Stage], gone: set[str]
) -> None:
    plan = Plan(stages, {KEY: frozenset(gone)})
    found = plan.single(
        [item.score for item in given_items], [item.key for item in given_items], ItemColumns(given_items)
    )
    for place, item in enumerate(given_items):
        score, decided = item.score, None
        for stage in stages:
            if stage.type in ("clip", "calibrate"):
                score = plain.rescored(stage, score)  # type: ignore[arg-type]
            elif stage.type == "threshold":
                decided = score >= stage.at  # type: ignore[union-attr]
        if item.key in gone:
            score = decided = None  # type: ignore[assignment]
        assert found.scores[place] == (score if score is None else pytest.approx(score, rel=1e-12))
        assert (found.decisions[place] if found.decisions else None) == decided


@pytest.mark.parametrize("score", [0.0, 1.0, 1e-300, 0.5, -3.0, 7.0])
def test_platt_scaling_is_finite_everywhere_and_the_identity_when_it_should_be(score: float) -> None:
    steep, same = ({"type": "calibrate", "platt": {"slope": slope}} for slope in (1e6, 1))
    for stage in (steep, same):
        plan = Plan(STAGES.validate_python([stage]), {})
        (calibrated,) = plan.single([score], ["k"], ItemColumns([])).scores
        assert calibrated is not None
        assert 0 <= calibrated <= 1
    assert calibrated == pytest.approx(min(max(score, 0), 1), abs=1e-15)


def test_boosts_without_end_stay_finite() -> None:
    stages = STAGES.validate_python(
        [{"type": "boost", "where": {"field": "shop", "one_of": ["a"]}, "multiply": 1e6, "add": 1e16}] * 32
    )
    given_items = [Item("x", {"shop": "a"}, 3.4e38), Item("y", {"shop": "a"}, -3.4e38), Item("z", {}, 0.0)]
    assert np.isfinite([score for _, score in shown(Plan(stages, {}), given_items)]).all()


REQUESTS = [1_000, pytest.param(100_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("requests", REQUESTS)
def test_a_removed_item_never_appears(requests: int) -> None:
    """Requests, stages and the list are made up anew all the time; the list grows and shrinks in between."""
    draw = random.Random(17)
    gone: set[str] = set()
    plan = Plan([], {})
    for number in range(requests):
        if number % 10 == 0:
            gone ^= {f"k{draw.randrange(200)}" for _ in range(5)}
            plan = Plan(_stages(draw), {KEY: frozenset(gone), "shop": frozenset({"banned"})})
        chosen = draw.sample(range(200), draw.randrange(1, 60))
        given_items = [
            Item(
                f"k{key}", {"shop": draw.choice(["a", "b", "banned", None]), "price": draw.randrange(9)}, draw.random()
            )
            for key in chosen
        ]
        out = [given_items[index] for index in ranked(plan, given_items).order]
        assert not gone & {item.key for item in out}
        assert all(item.fields["shop"] != "banned" for item in out)


def _stages(draw: random.Random) -> list[Stage]:
    kinds: list[dict[str, Any]] = [
        {"type": "boost", "where": {"field": "shop", "one_of": ["banned"]}, "add": draw.random()},
        {"type": "filter", "keep": {"field": "price", "at_least": draw.randrange(3)}},
        {"type": "demote", "where": {"field": "price", "one_of": [1, 2]}},
        {"type": "clip", "high": draw.random()},
        {"type": "cap", "field": "shop", "most": draw.randrange(1, 9)},
        {"type": "top", "k": draw.randrange(1, 99)},
    ]
    last = [{"type": "diversify", "k": draw.randrange(1, 20), "fields": ["price"]}] if draw.random() < 0.3 else []
    return STAGES.validate_python([*draw.sample(kinds, draw.randrange(5)), *last])
