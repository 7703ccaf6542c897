"""Who is answered by the canary: a pure function of the pipeline and the assignment key, alike on every replica and at any time.

A key has a place in [0, 1) and belongs to the canary while its place is below the weight. So raising the weight moves only keys
that come new to the canary, lowering it only keys that leave, and a weight that comes back finds the same keys again.
"""

import uuid
from hashlib import blake2b

HEADER = b"x-relevo-assignment-key"
"""Names whom a request is about, in place of what its first instance says."""
_PERSON = b"relevo-canary"
_BITS = 53
"""As many as a float holds exactly."""


def place(pipeline: uuid.UUID, key: bytes) -> float:
    """Where a key stands in [0, 1), evenly spread. Neither generation, weight, version nor secret has a part in it."""
    digest = blake2b(key, digest_size=8, key=pipeline.bytes, person=_PERSON).digest()
    return (int.from_bytes(digest) >> (64 - _BITS)) / 2**_BITS


def assigned(pipeline: uuid.UUID, key: bytes, weight: float) -> bool:
    """Whether a key belongs to a canary of this weight, from 0 (none does) to 1 (all do)."""
    return place(pipeline, key) < weight
