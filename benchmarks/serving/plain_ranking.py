"""Post-processing as one would write it down: plain Python, a candidate at a time. The engine is measured and tested against it."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from shared.spec.postprocessing import (
    BoostStage,
    CalibrateStage,
    CapStage,
    ClipStage,
    Condition,
    DemoteStage,
    DiversifyStage,
    FilterStage,
    Stage,
    ThresholdStage,
    TopStage,
)


@dataclass
class Item:
    """One candidate on its way."""

    key: str
    fields: dict[str, Any]
    score: float
    tier: int = 0


def rank(items: Sequence[Item], stages: Sequence[Stage], removed: Collection[str], k: int | None = None) -> list[Item]:
    """What is left of the candidates, first to last."""
    left = [Item(item.key, item.fields, item.score) for item in items if item.key not in removed]
    diverse = False
    for stage in stages:
        match stage:
            case ClipStage() | CalibrateStage():
                for item in left:
                    item.score = rescored(stage, item.score)
            case ThresholdStage():
                left = [item for item in left if item.score >= stage.at]
            case FilterStage(keep=Condition() as keep):
                left = [item for item in left if holds(keep, item)]
            case FilterStage(drop=Condition() as drop):
                left = [item for item in left if not holds(drop, item)]
            case BoostStage():
                for item in left:
                    if holds(stage.where, item):
                        item.score = item.score * stage.multiply + stage.add
            case DemoteStage():
                for item in left:
                    item.tier += holds(stage.where, item)
            case CapStage():
                left = capped(left if diverse else in_order(left), stage)
            case TopStage():
                left = (left if diverse else in_order(left))[: stage.k]
            case DiversifyStage():
                left, diverse = diversified(in_order(left), stage), True
    return (left if diverse else in_order(left))[:k]


def in_order(items: Sequence[Item]) -> list[Item]:
    """By tier, falling score and key."""
    return sorted(items, key=lambda item: (item.tier, -item.score, item.key))


def holds(condition: Condition, item: Item) -> bool:
    """The condition, for one."""
    value = item.fields.get(condition.field)
    if value is None or (condition.one_of is not None and value not in condition.one_of):
        return False
    if condition.at_least is None and condition.at_most is None:
        return True
    if type(value) not in (int, float):
        return False
    low, high = condition.at_least, condition.at_most
    return (low is None or value >= low) and (high is None or value <= high)


def rescored(stage: ClipStage | CalibrateStage, score: float) -> float:
    """One score, clipped or calibrated."""
    if isinstance(stage, ClipStage):
        score = score if stage.low is None else max(score, stage.low)
        return score if stage.high is None else min(score, stage.high)
    if stage.platt is not None:
        inside = min(max(score, math.nextafter(0, 1)), math.nextafter(1, 0))
        odds = stage.platt.slope * (math.log(inside) - math.log1p(-inside)) + stage.platt.intercept
        return 0.5 * (1 + math.tanh(0.5 * odds))
    assert stage.points is not None
    before = stage.points[0]
    if score <= before[0]:
        return before[1]
    for point in stage.points[1:]:
        if score < point[0]:
            return before[1] + (point[1] - before[1]) / (point[0] - before[0]) * (score - before[0])
        before = point
    return before[1]


def capped(items: Sequence[Item], stage: CapStage) -> list[Item]:
    """The first so many of each value."""
    seen: Counter[Any] = Counter()
    kept = []
    for item in items:
        value = item.fields.get(stage.field)
        seen[value] += 1
        if value is None or seen[value] <= stage.most:
            kept.append(item)
    return kept


def diversified(items: Sequence[Item], stage: DiversifyStage) -> list[Item]:
    """Maximal marginal relevance. Each one's greatest similarity is kept: every pick compares what is left with the last one."""
    scores = [item.score for item in items]
    low, high = min(scores, default=0), max(scores, default=0)
    left, picked = list(items), list[Item]()
    greatest: dict[str, float] = {}
    while left and len(picked) < stage.k:
        tier = left[0].tier
        if picked:
            for item in left:
                found = similarity(item, picked[-1], stage)
                greatest[item.key] = max(greatest.get(item.key, found), found)
        best = max(
            (item for item in left if item.tier == tier),
            key=lambda item: gain(item, greatest.get(item.key, 0.0), low, high, stage),
        )
        left.remove(best)
        picked.append(best)
    return picked


def gain(item: Item, greatest: float, low: float, high: float, stage: DiversifyStage) -> float:
    """What `diversify` picks by, given the greatest similarity to what was picked."""
    relevance = (item.score - low) / (high - low) if high > low else 0.0
    return stage.relevance_weight * relevance - (1 - stage.relevance_weight) * greatest


def similarity(one: Item, other: Item, stage: DiversifyStage) -> float:
    """The mean over fields and vector."""
    parts = [
        float(one.fields.get(name) is not None and one.fields.get(name) == other.fields.get(name))
        for name in stage.fields
    ]
    if stage.vector is not None:
        a, b = one.fields[stage.vector], other.fields[stage.vector]
        length = math.hypot(*a) * math.hypot(*b)
        parts.append(math.fsum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0)
    return sum(parts) / len(parts)
