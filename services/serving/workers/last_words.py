"""What a worker has counted, in memory that outlives it: so that a worker that is killed takes no more than moments of it along.

The memory has two halves, one of which is valid; a byte in front says which. A process that is killed while it writes leaves the
other half, written before, valid.
"""

import mmap
import os
import struct
import tempfile

import msgspec

from services.serving.workers.merging import Counted
from shared.observability.tally import Tally, all_tallies

HALF_BYTES = 2**20
SIZE_BYTES = 1 + 2 * HALF_BYTES

_LENGTH = struct.Struct("=I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Counted]).decode


def make() -> int:
    """A descriptor of such memory, for the worker to inherit."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("relevo-counted")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.truncate(memory, SIZE_BYTES)
    return memory


def read(memory: int) -> list[Counted]:
    """What was written last; nothing when nothing was."""
    with mmap.mmap(memory, SIZE_BYTES, access=mmap.ACCESS_READ) as seen:
        start = 1 + seen[0] * HALF_BYTES
        (length,) = _LENGTH.unpack_from(seen, start)
        return _decode(seen[start + _LENGTH.size : start + _LENGTH.size + length]) if length else []


class LastWords:
    """Writes all tallies of this process."""

    def __init__(self, memory: int) -> None:
        self._memory = mmap.mmap(memory, SIZE_BYTES)
        self._stands: dict[Tally, msgspec.Raw] = {}

    def write(self) -> None:
        """Write them as they are now; more than a half has room for is left out."""
        self._stands = {tally: self._stands.get(tally) or msgspec.Raw(_encode(tally.stands)) for tally in all_tallies()}
        data = _encode([(stands, tally.values) for tally, stands in self._stands.items()])
        if len(data) > HALF_BYTES - _LENGTH.size:
            return
        half = 1 - self._memory[0]
        start = 1 + half * HALF_BYTES
        _LENGTH.pack_into(self._memory, start, len(data))
        self._memory[start + _LENGTH.size : start + _LENGTH.size + len(data)] = data
        self._memory[0] = half


def moved() -> list[Counted]:
    """What of the tallies this process's metrics show; to be asked right after they were collected."""
    return [Counted(tally.stands, list(tally.moved)) for tally in all_tallies()]
