"""One answered request as it is logged: JSON that PostgreSQL itself takes apart, behind the two figures that shipping needs.

The rows are logged as they were sent wherever the body says just what was read: nothing is encoded a second time on the way to
the answer, and serving never parses a record again.
"""

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

_HEAD = struct.Struct("<BQI")
FORMAT = 2
BEGINS = re.compile(b"(?=" + re.escape(bytes([FORMAT])) + rb".{6}\0\0.{3}\0\{)", re.DOTALL)
"""Where a payload may begin: times and row counts leave the highest bytes of their fields zero."""
HEAD_BYTES = _HEAD.size
MAX_DOCUMENT_BYTES = 64 * 2**20
"""PostgreSQL takes 256 MiB of its own form of JSON, in which a row of the shortest names and numbers is 3.5 times as long."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A record as read from the log."""

    requested_ms: int
    """When the request was made, Unix milliseconds: the time in its id."""
    rows: int
    document: bytes
    """JSON: `request`, `pipeline`, `version` (hex ids), `number`, `generation`, `pinned`, `role`, `api_key`, `caller_request`,
    `latency_us`, `received` (epoch microseconds); `keys`, `times` (epoch microseconds) and `scores` (the model's), one entry a row;
    `available` likewise, unless it is `received` for every row; where scores were processed `final_scores` (null: removed, or not
    in the list), `stages_number` or `stages_spec`, and `removals`; `sent` (the body, whose `instances` are the rows) or `rows` (the
    rows themselves); `not_logged`: names in a row that are no part of its instance."""

    @property
    def requested_at(self) -> datetime:
        """`requested_ms` as a moment."""
        return datetime.fromtimestamp(self.requested_ms / 1000, UTC)


def head(requested_ms: int, rows: int) -> bytes:
    """What stands before the document in the payload of a log frame."""
    return _HEAD.pack(FORMAT, requested_ms, rows)


def decode(payload: bytes) -> Logged:
    """The record of one log frame.

    Raises:
        ValueError: the payload is not one that `head` begins.
    """
    if len(payload) <= _HEAD.size or payload[0] != FORMAT:
        raise ValueError(f"a log frame is of format {payload[:1].hex()}, not {FORMAT:02x}")
    _, requested_ms, rows = _HEAD.unpack_from(payload)
    return Logged(requested_ms, rows, payload[_HEAD.size :])


def requested_ms(head: bytes) -> int | None:
    """When the request of the payload that begins so was made, Unix milliseconds; None when it is none that `head` begins."""
    if len(head) < HEAD_BYTES or head[0] != FORMAT:
        return None
    at_ms: int = _HEAD.unpack_from(head)[1]
    return at_ms


def plainer(record: Logged) -> Logged:
    """The same record with every number written again as a double: PostgreSQL refuses some that JSON allows (1e-20000).

    Raises:
        ValueError: the document is not JSON.
    """
    return Logged(record.requested_ms, record.rows, orjson.dumps(orjson.loads(record.document)))
