"""How records lie in a segment file: a magic line, then frames of length, CRC-32 and payload. Pure functions over bytes.

A frame counts only when it is complete and its checksum fits, so the torn tail that a kill or a power cut leaves is recognised.
"""

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"RELEVO1\n"
HEADER = struct.Struct("<II")
"""Payload length in bytes, CRC-32 of the payload; both little-endian."""
MAX_PAYLOAD_BYTES = 256 * 2**20
"""A longer length can only be damage: bodies are bounded far below."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What was read from a piece of a segment."""

    payloads: list[bytes]
    read_bytes: int
    """Length of the complete frames read."""
    damaged: bool
    """Whether what follows them can never become a frame (rather than one that is not complete yet)."""


def frame(payload: bytes) -> bytes:
    """One frame around a payload of at least one byte."""
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def read_frames(data: bytes) -> Frames:
    """The complete frames at the start of `data`."""
    payloads: list[bytes] = []
    position = 0
    while len(data) - position >= HEADER.size:
        length, checksum = HEADER.unpack_from(data, position)
        # Zeros are what a power cut leaves of pages that were never written.
        if not 0 < length <= MAX_PAYLOAD_BYTES:
            return Frames(payloads, position, damaged=True)
        end = position + HEADER.size + length
        if end > len(data):
            break
        payload = data[position + HEADER.size : end]
        if zlib.crc32(payload) != checksum:
            return Frames(payloads, position, damaged=True)
        payloads.append(payload)
        position = end
    return Frames(payloads, position, damaged=False)


def next_frame_bytes(data: bytes) -> int | None:
    """Length of the frame that starts `data`, complete or not; None when even its header is cut short."""
    if len(data) < HEADER.size:
        return None
    length, _ = HEADER.unpack_from(data)
    return HEADER.size + int(length)
