"""What serving hands to the shadow's process: the log records of answered requests, each with its model and the version to compare.

A record holds all else there is to know: rows as they were sent, who answered, the scores. Nothing is encoded a second time.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = struct.Struct("<IHI")


@dataclass(frozen=True, slots=True)
class Frame:
    """One request."""

    model: str
    shadow: int
    """Number of the version that is to score it."""
    record: bytes
    """The payload of its frame in the prediction log."""

    def encode(self) -> bytes:
        """As it goes through the pipe."""
        name = self.model.encode()
        return _HEAD.pack(self.shadow, len(name), len(self.record)) + name + self.record


class Frames:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole by now."""
        self._bytes += data
        while len(self._bytes) >= _HEAD.size:
            shadow, name, length = _HEAD.unpack_from(self._bytes)
            begin = _HEAD.size + name
            end = begin + length
            if len(self._bytes) < end:
                return
            found = Frame(self._bytes[_HEAD.size : begin].decode(), shadow, bytes(self._bytes[begin:end]))
            del self._bytes[:end]
            yield found
