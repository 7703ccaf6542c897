"""Who is answered by the canary."""

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.assignment import assigned, place, sampled
from shared.ids import new_id_number

PIPELINE = uuid.UUID("0190c9b4-1c3e-7d52-9a51-2f5c8a0e1b7d")
OTHER = uuid.UUID("0190c9b4-1c3e-7d52-9a51-2f5c8a0e1b7e")
KEYS = [f"key-{number}".encode() for number in range(20_000)]


def of_canary(pipeline: uuid.UUID, weight: float) -> set[bytes]:
    return {key for key in KEYS if assigned(pipeline, key, weight)}


@given(st.uuids(), st.binary(max_size=300), st.floats(0, 1), st.floats(0, 1))
def test_a_key_keeps_its_version_unless_the_weight_passes_it(
    pipeline: uuid.UUID, key: bytes, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert assigned(pipeline, key, low) <= assigned(pipeline, key, high)
    assert assigned(pipeline, key, one) == assigned(pipeline, key, one), "asked again"
    assert assigned(pipeline, key, 1.0), "a weight of 1 is everybody"
    assert not assigned(pipeline, key, 0.0), "a weight of 0 is nobody"


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_the_weight(weight: float) -> None:
    deviation = (weight * (1 - weight) / len(KEYS)) ** 0.5
    assert abs(len(of_canary(PIPELINE, weight)) / len(KEYS) - weight) < 4 * deviation


def test_raising_the_weight_moves_only_keys_that_are_new_to_the_canary() -> None:
    shares = [of_canary(PIPELINE, weight) for weight in (0.05, 0.2, 0.2, 0.6, 1.0)]
    for before, after in pairwise(shares):
        assert before <= after
    assert shares[1] == shares[2]
    assert len(shares[-1]) == len(KEYS)


@given(st.integers(0, 2**128 - 1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_sample_holds_the_smaller(request: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert sampled(request, low) <= sampled(request, high)
    assert sampled(request, 1.0)
    assert not sampled(request, 0.0)


def test_the_sample_is_of_its_size() -> None:
    ids = [new_id_number() for _ in range(20_000)]
    assert abs(sum(sampled(id_, 0.1) for id_ in ids) / len(ids) - 0.1) < 0.015, "seven deviations"


def test_pipelines_are_assigned_independently() -> None:
    both = of_canary(PIPELINE, 0.5) & of_canary(OTHER, 0.5)
    assert abs(len(both) / len(KEYS) - 0.25) < 0.02


def test_a_place_is_the_same_on_every_replica_and_in_every_release() -> None:
    assert place(PIPELINE, b"N14228") == pytest.approx(PLACE, abs=1e-15)


PLACE = 0.5834018952499138
"""As first released: a change would give users other versions in the middle of a canary."""
