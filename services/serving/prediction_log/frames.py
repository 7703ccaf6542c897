"""How records lie in a segment file: a magic line, then frames of length, CRC-32 and payload. Pure functions over bytes.

A frame counts only when it is complete and its checksum fits, so the torn tail that a kill or a power cut leaves is recognised.
"""

import re
import struct
import zlib

MAGIC = b"RELEVO1\n"
HEADER = struct.Struct("<II")
"""Payload length in bytes, CRC-32 of the payload; both little-endian."""
MAX_PAYLOAD_BYTES = 256 * 2**20
"""A longer length can only be damage: no longer payload is written."""


Payload = bytes | tuple[bytes, ...]
"""As a whole or in pieces: a body is large, and is copied into its frame from where it is."""


def frame(*payloads: Payload) -> bytes:
    """A frame around each payload, one behind the other.

    Raises:
        ValueError: a payload is empty, or so long that a reader would take its length for damage.
    """
    parts: list[bytes] = []
    for payload in payloads:
        pieces = (payload,) if isinstance(payload, bytes) else payload
        length = checksum = 0
        for piece in pieces:
            length += len(piece)
            checksum = zlib.crc32(piece, checksum)
        if not 0 < length <= MAX_PAYLOAD_BYTES:
            raise ValueError(f"a frame holds 1 to {MAX_PAYLOAD_BYTES} bytes, not {length}")
        parts.append(HEADER.pack(length, checksum))
        parts += pieces
    return b"".join(parts)


def read_frames(data: bytes) -> list[bytes]:
    """The payloads of the complete frames at the start of `data`."""
    payloads: list[bytes] = []
    position = 0
    while len(data) - position >= HEADER.size:
        length, checksum = HEADER.unpack_from(data, position)
        # Zeros are what a power cut leaves of pages that were never written.
        if not 0 < length <= MAX_PAYLOAD_BYTES:
            break
        end = position + HEADER.size + length
        payload = data[position + HEADER.size : end]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            break
        payloads.append(payload)
        position = end
    return payloads


def next_frame_bytes(data: bytes) -> int | None:
    """Length of the frame that starts `data`, complete or not; None when even its header is cut short."""
    if len(data) < HEADER.size:
        return None
    length, _ = HEADER.unpack_from(data)
    return HEADER.size + int(length)


def find_frame(data: bytes, begins: re.Pattern[bytes]) -> int | None:
    """Where in `data`, behind its first byte, a whole frame starts whose payload begins as it should; None when none does.

    The checksum alone would let one in four thousand million wrong places pass, and would have to be computed at most of them.

    Args:
        data: bytes of a segment, from anywhere.
        begins: matches, without consuming anything, where a payload may begin.
    """
    for match in begins.finditer(data, HEADER.size + 1):
        start = match.start() - HEADER.size
        length, checksum = HEADER.unpack_from(data, start)
        payload = memoryview(data)[match.start() : match.start() + length]
        if 0 < length == len(payload) and zlib.crc32(payload) == checksum:
            return start
    return None


def is_unfinished(rest: bytes) -> bool:
    """Whether the bytes that end a segment, without a frame in them, are a frame's beginning or were never written.

    Anything else is damage. So is a length that a flipped bit made too long: the checksum of what is there fits.
    """
    if len(rest) < HEADER.size or not any(rest):
        return True
    length, checksum = HEADER.unpack_from(rest)
    payload = memoryview(rest)[HEADER.size :]
    return len(payload) < length <= MAX_PAYLOAD_BYTES and zlib.crc32(payload) != checksum
