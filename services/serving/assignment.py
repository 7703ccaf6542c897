"""Who is answered by the canary, and what the shadow sees: pure functions, alike on every replica and at any time.

A key has a place in [0, 1) and belongs to the canary while its place is below the weight. So raising the weight moves only keys
that come new to the canary, lowering it only keys that leave, and a weight that comes back finds the same keys again.
"""

import uuid
from hashlib import blake2b

HEADER = b"x-relevo-assignment-key"
"""Names whom a request is about, in place of what its first instance says."""
_CANARY, _SHADOW = b"relevo-canary", b"relevo-shadow"
_BITS = 53
"""As many as a float holds exactly."""


def place(pipeline: uuid.UUID, key: bytes) -> float:
    """Where a key stands in [0, 1), evenly spread. Neither generation, weight, version nor secret has a part in it."""
    return _unit(blake2b(key, digest_size=8, key=pipeline.bytes, person=_CANARY).digest())


def assigned(pipeline: uuid.UUID, key: bytes, weight: float) -> bool:
    """Whether a key belongs to a canary of this weight, from 0 (none does) to 1 (all do)."""
    return place(pipeline, key) < weight


def sampled(request: int, share: float) -> bool:
    """Whether a request, by its id of 128 bits, is in a sample of this share, from 0 (none is) to 1 (all are)."""
    return _unit(blake2b(request.to_bytes(16), digest_size=8, person=_SHADOW).digest()) < share


def _unit(digest: bytes) -> float:
    return (int.from_bytes(digest) >> (64 - _BITS)) / 2**_BITS
