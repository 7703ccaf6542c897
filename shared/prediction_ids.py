"""Prediction ids: made by serving with each answer, believed by whoever receives feedback, without a lookup.

    <request, 32 hex digits> <row, 6 hex digits> <tag, 16 hex digits>        54 characters, no separators

The request is a UUID version 7, so ids sort by time, then by row. The tag is 64 bits of a keyed BLAKE2b (RFC 7693) over
pipeline, request and row, eight rows at a time: feedback may arrive before the prediction's log row does, and a forged
id is still refused. All replicas share one secret.
"""

import hashlib
import hmac
import re
import uuid
from typing import NoReturn

from shared.errors import Invalid

MAX_ROWS = 2**24
MIN_SECRET_CHARS = 32

_TAG_CHARS = 16
_BLOCK = 8
"""Rows whose tags are one digest of 64 bytes."""
_NUMBERS = [f"{row:06x}" for row in range(1024)]
"""Of the rows that most requests have, as they stand in an id."""
_TEXT = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}[0-9a-f]{6}[0-9a-f]{16}")


class PredictionIds:
    """Makes and verifies the prediction ids of one secret. Safe to share among threads."""

    def __init__(self, secret: str) -> None:
        """Raises ValueError when the secret has fewer than 32 characters."""
        if len(secret) < MIN_SECRET_CHARS:
            raise ValueError(f"the prediction secret must have at least {MIN_SECRET_CHARS} characters")
        key = hashlib.blake2b(secret.encode()).digest()
        self._keyed = hashlib.blake2b(key=key, person=b"relevo-predict")

    def make(self, pipeline: str, request_id: uuid.UUID, row: int) -> str:
        """The id of one row of a request.

        Raises:
            ValueError: `request_id` is not of version 7, or `row` is not within 0 and 2**24 - 1.
        """
        if not 0 <= row < MAX_ROWS:
            raise ValueError(f"row must be at least 0 and below {MAX_ROWS}")
        return self._rows(pipeline, _hex(request_id), range(row, row + 1))[0]

    def make_batch(self, pipeline: str, request: str, count: int) -> list[str]:
        """The ids of the rows 0 to `count` - 1 of one request; a tenth of the cost of `make` for each.

        Args:
            request: the request's UUID of version 7 as 32 hex digits.

        Raises:
            ValueError: `count` is not within 0 and 2**24.
        """
        if not 0 <= count <= MAX_ROWS:
            raise ValueError(f"count must be at least 0 and at most {MAX_ROWS}")
        return self._rows(pipeline, request, range(count))

    def verify(self, pipeline: str, text: str) -> tuple[uuid.UUID, int]:
        """The request and row of an id that this secret made for `pipeline`.

        Raises:
            Invalid: the text is not a prediction id, or was not made by this system for this pipeline.
        """
        row = _row(text)
        if not hmac.compare_digest(self._rows(pipeline, text[:32], range(row, row + 1))[0], text):
            _refuse("this prediction id was not issued for this pipeline; send the id exactly as /predict returned it")
        return uuid.UUID(hex=text[:32]), row

    def _rows(self, pipeline: str, request: str, rows: range) -> list[str]:
        # A pipeline's name holds no NUL and what follows it has a fixed length: no two messages read the same.
        message = pipeline.encode() + b"\0" + bytes.fromhex(request)
        first = rows.start // _BLOCK
        digests: list[bytes] = []
        for block in range(first, -(-rows.stop // _BLOCK)):
            digest = self._keyed.copy()
            digest.update(message + block.to_bytes(3))
            digests.append(digest.digest())
        tags = b"".join(digests).hex()
        skipped = (rows.start - first * _BLOCK) * _TAG_CHARS
        numbers = _NUMBERS[rows.start : rows.stop] if rows.stop <= len(_NUMBERS) else [f"{row:06x}" for row in rows]
        places = range(skipped, skipped + len(rows) * _TAG_CHARS, _TAG_CHARS)
        return [f"{request}{number}{tags[at : at + _TAG_CHARS]}" for number, at in zip(numbers, places, strict=True)]


def parse(text: str) -> tuple[uuid.UUID, int]:
    """The request and row that an id names, unverified: only for ids that come from our own log.

    Raises:
        Invalid: the text is not a prediction id.
    """
    row = _row(text)
    return uuid.UUID(hex=text[:32]), row


def _row(text: str) -> int:
    if _TEXT.fullmatch(text) is None:
        _refuse("not a prediction id; send the 54 characters of prediction_id exactly as /predict returned them")
    return int(text[32:38], 16)


def _hex(request_id: uuid.UUID) -> str:
    if request_id.version != 7:
        raise ValueError("request_id must be a UUID of version 7")
    return request_id.hex


def _refuse(reason: str) -> NoReturn:
    raise Invalid(reason, errors=[{"loc": ["prediction_id"], "msg": reason}])
