"""The hash of a column and that of one key are the same, whatever the keys."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from services.serving.offline import key_hash
from services.serving.offline.key_hash import MASK, hash_key, hash_keys

KEYS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=20)


@given(KEYS, st.integers(0, MASK), st.integers(0, 5))
def test_a_column_hashes_as_its_keys_do(keys: list[str], seed: int, start: int) -> None:
    column = pa.array(keys, pa.string()).slice(start)
    assert hash_keys(column, seed).tolist() == [hash_key(key, seed) for key in keys[start:]]


def test_a_long_column_is_hashed_in_stripes() -> None:
    keys = [f"key-{number}-{'x' * (number % 200)}" for number in range(3 * key_hash.STRIPE_BYTES // 200)]
    assert hash_keys(pa.array(keys), 7).tolist() == [hash_key(key, 7) for key in keys]


def test_keys_and_seeds_spread() -> None:
    column = pa.array([str(number) for number in range(50_000)])
    hashes = hash_keys(column, 1)
    assert len(np.unique(hashes)) == len(column)
    assert not np.intersect1d(hashes, hash_keys(column, 0x9E3779B97F4A7C15)).size
    per_part = np.bincount((hashes >> np.uint64(56)).astype(int), minlength=256)
    assert 100 < per_part.min() <= per_part.max() < 300
    assert hash_key("a", 1) != hash_key("a\0", 1), "what fills up a word is no part of a key"
