"""The golden vectors of a new version: rows made up from what its graph holds anyway, and what training code scores them with.

No example is copied. A row combines drawn values within what the train split spans, words of the vocabulary, unseen words and
missing values, so it has the edges that real rows seldom show, and an erasure has nothing to look for in it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from services.trainer.export import OUTPUT, ExportFailed
from services.trainer.networks import Scorer
from services.trainer.transform import Transform, feeds_of
from services.trainer.transform.build import session
from services.trainer.transform.fit import Scaling, Statistics
from shared.golden import Golden, worst
from shared.spec import CategoryFeature, Feature, NumberFeature, PipelineSpec, TimestampFeature, VectorFeature

ROWS = 24
MOST_VALUES = 20_000
"""Long vectors make fewer rows, so that the artifact stays small."""
FEWEST_ROWS = 4
FIRST_US, LAST_US = 946_684_800_000_000, 2_208_988_800_000_000
"""Moments are drawn between 2000 and 2040: across many changes of any zone's clock."""
DIGITS = 4
"""Significant digits of a number: any value will do, and a short one says less about the statistics."""
LARGEST_LOG = 88.0
"""About that of float32's largest number."""
UNSEEN = "relevo unseen word"

MISSING, LOW, HIGH, BEYOND = range(4)
"""The first rows: all at one edge. Those after them are drawn."""
_TYPES = {
    CategoryFeature: pa.string(),
    NumberFeature: pa.float64(),
    TimestampFeature: pa.int64(),
    VectorFeature: pa.list_(pa.float64()),
}


def make_golden(model: bytes, scorer: Scorer, transform: Transform, spec: PipelineSpec) -> Golden:
    """Rows, and the scores of the transform and torch for them.

    Args:
        model: the exported file.
        scorer: the trained network, on the CPU.
        transform: the graph that fed it.
        spec: the pipeline; its seed is the rows'.

    Raises:
        ExportFailed: the file gives other scores than torch: serving would refuse it.
    """
    rows = golden_rows(transform.statistics, spec)
    feeds = feeds_of(_table(rows, spec), spec)
    numbers, ids = transform(feeds)
    with torch.inference_mode():
        scores = scorer(torch.from_numpy(numbers), torch.from_numpy(ids)).numpy()
    center, unit = (0.0, 1.0) if spec.task == "binary" else (scorer.label_mean, scorer.label_std)
    golden = Golden(rows, scores.tolist(), center, unit)
    found = worst(golden, session(model).run([OUTPUT], feeds)[0])
    if not found.accepted:
        raise ExportFailed(f"The exported graph differs from torch: {found}.")
    return golden


def golden_rows(statistics: Statistics, spec: PipelineSpec) -> list[dict[str, Any]]:
    """The made-up rows, inputs by name, missing ones left out. The same for the same statistics and seed."""
    draw = np.random.default_rng(spec.training.seed)
    inputs = spec.input_features
    values = sum(feature.length if isinstance(feature, VectorFeature) else 1 for feature in inputs.values())
    count = max(FEWEST_ROWS, min(ROWS, MOST_VALUES // values))
    rows = []
    for index in range(count):
        drawn = {name: _value(name, feature, index, statistics, draw) for name, feature in inputs.items()}
        rows.append({name: value for name, value in drawn.items() if value is not None})
    return rows


def _value(name: str, feature: Feature, row: int, statistics: Statistics, draw: np.random.Generator) -> Any:
    match feature:
        case NumberFeature():
            if not feature.required and (row == MISSING or (row > BEYOND and draw.random() < 0.1)):
                return None
            scaled = float(_scaled(statistics.numbers[name].scaling, row, draw))
            return _short(_without_log(scaled) if feature.transform == "log1p" else scaled)
        case CategoryFeature():
            return _word(feature, statistics.categories[name].vocabulary, row, draw)
        case TimestampFeature():
            return int(draw.integers(FIRST_US, LAST_US))
        case VectorFeature():
            return [_short(float(value)) for value in _scaled(statistics.vectors[name], row, draw)]
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def _scaled(scaling: Scaling, row: int, draw: np.random.Generator) -> np.ndarray:
    """Values before scaling, of the scaling's shape: at an end of what was seen, beyond it, or drawn between."""
    low, high = scaling.low.astype(np.float64), scaling.high.astype(np.float64)
    match row:
        case 1:
            at = low
        case 2:
            at = high
        case 3:
            at = high + (high - low) + 1
        case _:
            around_0 = (low < 0) & (high > 0)
            at = np.where(around_0, np.clip(draw.normal(size=low.shape), low, high), draw.uniform(low, high))
    flat = scaling.factor == 0
    return scaling.center + np.where(flat, 0.0, at / np.where(flat, 1.0, scaling.factor))


def _word(feature: CategoryFeature, vocabulary: tuple[str, ...], row: int, draw: np.random.Generator) -> str | None:
    chance = draw.random()
    if not feature.required and (row == MISSING or (row > BEYOND and chance < 0.1)):
        return None
    if not vocabulary or row == BEYOND or (row > BEYOND and chance > 0.9):
        return UNSEEN
    match row:
        case 1:
            return vocabulary[0]
        case 2:
            return vocabulary[-1]
        case _:
            return vocabulary[int(draw.integers(len(vocabulary)))]


def _without_log(value: float) -> float:
    return math.copysign(math.expm1(min(abs(value), LARGEST_LOG)), value)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _table(rows: list[dict[str, Any]], spec: PipelineSpec) -> pa.Table:
    inputs: Mapping[str, Feature] = spec.input_features
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], _TYPES[type(feature)]) for name, feature in inputs.items()}
    )
