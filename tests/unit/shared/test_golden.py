"""Golden vectors: what counts as the same score, and what is read back of them."""

import math

import numpy as np
import pytest

from shared.errors import Invalid
from shared.golden import TOLERANCE, Golden, decode, encode, worst

PROBABILITIES = Golden([{"x": 1.0}, {"x": 2.0}, {}], [0.25, 0.5, 1.0])


def off_by(golden: Golden, *differences: float) -> bool:
    scores = np.asarray(golden.scores, np.float64) + differences
    return worst(golden, scores.astype(np.float32)).accepted


def test_rounding_is_accepted_and_another_model_is_not() -> None:
    assert off_by(PROBABILITIES, 0, 0, 0)
    assert off_by(PROBABILITIES, 0.9 * TOLERANCE, -0.9 * TOLERANCE, 0)
    assert not off_by(PROBABILITIES, 0, 1.2 * TOLERANCE, 0)


def test_the_worst_row_is_named_with_both_scores() -> None:
    found = worst(PROBABILITIES, np.array([0.2502, 0.6, 1.0], np.float32))
    assert (found.row, found.accepted) == (1, False)
    assert "row 1 of its golden vectors scores 0.6" in str(found)
    assert "training gave 0.5: off by 0.1, at most 0.0001 may be" in str(found)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_never_accepted(score: float) -> None:
    found = worst(PROBABILITIES, np.array([0.25, score, 1.0], np.float32))
    assert (found.row, found.accepted) == (1, False)


def test_regression_is_measured_by_the_labels_deviation_and_by_what_float32_can_tell_apart() -> None:
    prices = Golden([{}, {}], [1_000_100.0, 1_002_000.0], center=1e6, unit=100.0)
    assert off_by(prices, 0.009, 0)
    assert not off_by(prices, 0.5, 0)
    assert off_by(prices, 0, 0.2), "twenty deviations out, 1e-4 of them all"
    flat = Golden([{}], [16_777_216.0], center=16_777_216.0, unit=1e-3)
    assert off_by(flat, 4.0), "two places on"
    assert not off_by(flat, 20.0)


def test_they_are_read_back_as_written() -> None:
    assert decode(encode(PROBABILITIES)) == PROBABILITIES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        encode(PROBABILITIES).replace(b'"format":1', b'"format":2'),
        encode(Golden([], [])),
        encode(Golden([{}, {}], [0.5])),
        encode(PROBABILITIES).replace(b"0.25", b'"x"'),
    ],
)
def test_what_is_no_golden_vectors_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="train the version again"):
        decode(data)
