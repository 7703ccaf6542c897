"""A 64-bit hash of keys: a whole column at a time when a generation is written, one when a key is looked up. Both give the same.

Keys of equal hash are told apart by the keys themselves, so the hash need not be cryptographic. The seed differs from generation to
generation: nobody can choose keys beforehand that all fall on one hash.

Words of eight bytes, little-endian, the last filled up with zeros, each mixed in by the finaliser of SplitMix64 (Steele, Lea and
Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014); the length last.
"""

import numpy as np
import pyarrow as pa

WORD = 8
MASK = 2**64 - 1
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
STRIPE_BYTES = 1 << 18
"""Keys are hashed so many padded bytes at a time, which stay in a core's cache."""


def hash_key(key: str, seed: int) -> int:
    """The hash of one key, an unsigned 64-bit number."""
    text = key.encode()
    state = seed
    for start in range(0, len(text), WORD):
        state = _mix(state ^ int.from_bytes(text[start : start + WORD], "little"))
    return _mix(state ^ len(text))


def hash_keys(keys: pa.StringArray, seed: int) -> np.ndarray:
    """The hashes of n keys, uint64 [n].

    Args:
        keys: without nulls.
    """
    _, offsets_buffer, data_buffer = keys.buffers()
    hashes = np.empty(len(keys), np.uint64)
    if not len(keys):
        return hashes
    offsets = np.frombuffer(offsets_buffer, np.int32, len(keys) + 1, keys.offset * 4)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.empty(0, np.uint8)
    lengths = np.diff(offsets)
    words = max(1, -(-int(lengths.max()) // WORD))
    stripe = max(1, STRIPE_BYTES // (words * WORD))
    for start in range(0, len(keys), stripe):
        part = slice(start, start + stripe)
        bounds = offsets[start : start + stripe + 1]
        hashes[part] = _hash_stripe(data[bounds[0] : bounds[-1]], lengths[part], words, seed)
    return hashes


def _hash_stripe(data: np.ndarray, lengths: np.ndarray, words: int, seed: int) -> np.ndarray:
    padded = np.zeros((len(lengths), words * WORD), np.uint8)
    # The texts lie end to end, in the order of the rows: as do the places that they fill.
    padded[np.arange(words * WORD, dtype=lengths.dtype) < lengths[:, None]] = data
    columns = np.ascontiguousarray(padded.view("<u8").T)
    used = -(-lengths // WORD)
    least = used.min()
    state = np.full(len(lengths), seed, np.uint64)
    for word in range(words):
        mixed = _mix_array(state ^ columns[word])
        state = mixed if word < least else np.where(word < used, mixed, state)
    return _mix_array(state ^ lengths.astype(np.uint64))


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * FIRST) & MASK
    value = ((value ^ (value >> 27)) * SECOND) & MASK
    return value ^ (value >> 31)


def _mix_array(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(SECOND)
    return values ^ (values >> np.uint64(31))
