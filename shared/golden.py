"""Golden vectors: a few rows and the scores that training code gave them, kept beside a version.

The trainer writes them, serving lets a version answer only when it gives the same. The rows are made up (see
`services.trainer.golden`): they are nobody's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from shared.errors import Invalid

TOLERANCE = 1e-4
"""Largest accepted difference in `unit`s. Float32 rounds at 6e-8, and runtimes and processors add up the some hundred terms of each
layer in orders of their own; the export's own bound is 1e-5. A model that was trained anew differs by a hundred times as much."""
LAST_PLACES = 4
"""Last places of float32 that a score may always differ by: a mean far larger than the unit leaves it no more digits."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows and their scores."""

    rows: Sequence[dict[str, Any]]
    """Inputs by name as /predict takes them: category str, number float, timestamp int (epoch microseconds UTC), vector list of
    float; left out where missing."""
    scores: Sequence[float]
    """One a row, as float32 holds it."""
    center: float = 0.0
    unit: float = 1.0
    """What scores are measured by: 0 and 1 for probabilities, the training labels' mean and deviation for a regression."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a score is off."""

    row: int
    given: float
    expected: float
    allowed: float

    @property
    def accepted(self) -> bool:
        """Whether it is within the tolerance; never for NaN."""
        return abs(self.given - self.expected) <= self.allowed

    def __str__(self) -> str:
        off = abs(self.given - self.expected)
        return (
            f"row {self.row} of its golden vectors scores {self.given:.9g}, where training gave {self.expected:.9g}: "
            f"off by {off:.3g}, at most {self.allowed:.3g} may be"
        )


def worst(golden: Golden, scores: np.ndarray) -> Difference:
    """The row whose score is furthest off, by its own tolerance.

    Args:
        scores: float32 [n], one for each of the golden rows.
    """
    expected = np.asarray(golden.scores, dtype=np.float64)
    given = np.asarray(scores, dtype=np.float64)
    scale = np.maximum(golden.unit, np.abs(expected - golden.center))
    allowed = TOLERANCE * scale + LAST_PLACES * np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    ratio = np.abs(given - expected) / allowed
    row = int(np.argmax(np.where(np.isfinite(ratio), ratio, np.inf)))
    return Difference(row, float(given[row]), float(expected[row]), float(allowed[row]))


def encode(golden: Golden) -> bytes:
    """The artifact's bytes: JSON."""
    return orjson.dumps({"format": FORMAT, **asdict(golden)})


def decode(data: bytes) -> Golden:
    """The inverse of `encode`.

    Raises:
        Invalid: no golden vectors, or of a form that this release does not know.
    """
    try:
        document = orjson.loads(data)
        if document["format"] != FORMAT:
            raise KeyError
        golden = Golden(
            rows=[dict(row) for row in document["rows"]],
            scores=[float(score) for score in document["scores"]],
            center=float(document["center"]),
            unit=float(document["unit"]),
        )
    except (ValueError, KeyError, TypeError):
        raise Invalid(
            "The version's golden vectors are not of a form that serving knows; train the version again."
        ) from None
    if not golden.rows or len(golden.rows) != len(golden.scores):
        raise Invalid("The version's golden vectors hold no row, or not one score for each; train the version again.")
    return golden
