"""Offline equals online: a sample of a new generation is read and scored again, row by row, as a request's would be."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from services.serving.models.loader import Loaded
from services.serving.offline.generation import KEY, Rows, as_instance
from shared.errors import Invalid

SAMPLE_ROWS = 200
TOLERANCE = 1e-6
"""Of a score; of a score above 1, as a share of it."""
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared."""

    rows: int
    largest_difference: float


def check_parity(rows: Rows, count: int, loaded: Loaded, *, seed: int, as_of: datetime) -> Parity:
    """Compare a sample of the rows.

    Args:
        count: rows there are.
        seed: names the sample.
        as_of: counts as the receipt of the rows.

    Raises:
        Invalid: /predict gives other scores, or does not take a row; names keys.
    """
    picked = np.arange(count)
    if count > SAMPLE_ROWS:
        picked = np.unique(np.random.default_rng(seed).integers(0, count, SAMPLE_ROWS))
    largest, wrong = 0.0, []
    for row in map(int, picked):
        values = rows.values(row)
        offline, online = rows.score(row), _online(values, loaded, as_of)
        difference = abs(offline - online)
        largest = max(largest, difference)
        if not difference <= TOLERANCE * max(1.0, abs(online)):
            wrong.append(f"{values[KEY][:64]!r} ({offline:.9g} offline, {online:.9g} online)")
    if wrong:
        raise Invalid(
            f"Version {loaded.version.number} gives {len(wrong)} of {len(picked)} rows another score offline than online: "
            f"{', '.join(wrong[:MOST_NAMED])}."
        )
    return Parity(len(picked), largest)


def _online(values: dict[str, Any], loaded: Loaded, as_of: datetime) -> float:
    codec = loaded.codec
    row = codec.read([as_instance(values, codec.spec.key, codec.spec.time)], as_of)
    return float(loaded.model.score(codec.feeds([row]))[0])
