"""Refuses compressed Arrow streams: their buffers state what they unpack to, and the reader allocates it before anyone can look.

Reads just enough of each message's flatbuffer (Arrow format, Message.fbs) to see whether a record batch names a compression.
"""

import struct

from shared.errors import Invalid, Malformed

_CONTINUATION = 0xFFFFFFFF
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_MAX_METADATA_BYTES = 16 * 2**20


def check_stream(body: bytes) -> None:
    """Look at every message of an Arrow IPC stream.

    Raises:
        Malformed: not a stream of messages.
        Invalid: a message is compressed.
    """
    position = 0
    try:
        while position + 4 <= len(body):
            (length,) = struct.unpack_from("<I", body, position)
            position += 4
            if length == _CONTINUATION:
                (length,) = struct.unpack_from("<I", body, position)
                position += 4
            if length == 0:
                return
            if length > min(_MAX_METADATA_BYTES, len(body) - position):
                raise Malformed("The body is not an Arrow stream.")
            message = _Table.root(body[position : position + length])
            position += length
            if message.names_compression():
                raise Invalid("Send the Arrow stream without buffer compression, or send Parquet.")
            body_bytes = message.int64(3)
            if body_bytes < 0:
                raise Malformed("The body is not an Arrow stream.")
            position += body_bytes
    except struct.error:
        raise Malformed("The body is not an Arrow stream.") from None


class _Table:
    """A flatbuffer table: fields are found through a table of offsets, absent ones have offset 0."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, _unpack("<I", data, 0))

    def field(self, index: int) -> int:
        """Where a field's value stands; 0 when it is absent."""
        offsets = self._position - _unpack("<i", self._data, self._position)
        slot = 4 + 2 * index
        if slot >= _unpack("<H", self._data, offsets):
            return 0
        offset = _unpack("<H", self._data, offsets + slot)
        return self._position + offset if offset else 0

    def int64(self, index: int) -> int:
        return _unpack("<q", self._data, at) if (at := self.field(index)) else 0

    def table(self, index: int) -> "_Table | None":
        return _Table(self._data, at + _unpack("<I", self._data, at)) if (at := self.field(index)) else None

    def names_compression(self) -> bool:
        """For a Message(version, header_type, header, bodyLength): whether its batch has the field `compression` (index 3)."""
        kind = self._data[at] if (at := self.field(1)) and at < len(self._data) else 0
        batch = self.table(2)
        if kind == _DICTIONARY_BATCH and batch is not None:
            batch = batch.table(1)
        return kind in (_DICTIONARY_BATCH, _RECORD_BATCH) and batch is not None and batch.field(3) != 0


def _unpack(form: str, data: bytes, position: int) -> int:
    if position < 0:
        raise struct.error("before the start")
    return int(struct.unpack_from(form, data, position)[0])
