"""Request bodies to rows, by content type. A row that cannot be read is a row with a reason; a body that cannot is an error."""

from collections.abc import Generator, Iterator
from enum import StrEnum
from itertools import islice

import orjson

from services.data.arrow_rows import arrow_rows, parquet_rows
from services.data.config import DataSettings
from services.data.rows import Unreadable
from shared.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from shared.spec import PipelineSpec

Rows = Generator[list[object], None, None]
"""Consecutive rows in chunks: plain JSON values, or `Unreadable`. Close it when not read to its end."""


class MediaType(StrEnum):
    """What rows may come as."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    PARQUET = "application/vnd.apache.parquet"
    ARROW = "application/vnd.apache.arrow.stream"


EVENT_TYPES = tuple(MediaType)
LABEL_TYPES = (MediaType.JSON, MediaType.NDJSON)


def media_type(header: str | None, allowed: tuple[MediaType, ...]) -> MediaType:
    """The media type of a Content-Type header.

    Raises:
        UnsupportedMedia: none, or one that is not among those allowed.
    """
    name = (header or "").partition(";")[0].strip().lower()
    for known in allowed:
        if name == known:
            return known
    raise UnsupportedMedia(f"Send the rows as one of: {', '.join(allowed)} (header Content-Type).")


def decode(body: bytes, kind: MediaType, spec: PipelineSpec, limits: DataSettings) -> Rows:
    """The rows of a body, in chunks of at most `limits.chunk_rows`.

    Raises:
        Malformed: the body is not what its content type says.
        Invalid: it is, but no list of rows; or it has columns the pipeline does not have, or of a type that cannot fit.
        TooLarge: more rows, or more bytes once decoded, than allowed.
    """
    match kind:
        case MediaType.JSON:
            return _json_rows(body, limits)
        case MediaType.NDJSON:
            return _ndjson_rows(body, limits)
        case MediaType.PARQUET:
            return parquet_rows(body, spec, limits)
        case MediaType.ARROW:
            return arrow_rows(body, spec, limits)


def _json_rows(body: bytes, limits: DataSettings) -> Rows:
    try:
        rows = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not valid JSON (line {error.lineno}, column {error.colno}).") from None
    if type(rows) is not list:
        raise Invalid(
            "The body must be a JSON array of rows.", errors=[{"loc": ["body"], "msg": "must be an array of objects"}]
        )
    _check_count(len(rows), limits)
    for start in range(0, len(rows), limits.chunk_rows):
        yield rows[start : start + limits.chunk_rows]


def _ndjson_rows(body: bytes, limits: DataSettings) -> Rows:
    _check_count(body.count(b"\n"), limits)
    lines = (line for line in _lines(body) if not line.isspace())
    while chunk := list(islice(lines, limits.chunk_rows)):
        yield [_parse_line(line) for line in chunk]


def _lines(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        if end > start:
            yield body[start:end]
        start = end + 1


def _parse_line(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return Unreadable(line.decode("utf-8", "replace"), "is not valid JSON")


def _check_count(rows: int, limits: DataSettings) -> None:
    if rows > limits.upload_max_rows:
        raise TooLarge(f"The upload has more than {limits.upload_max_rows} rows; send it in parts.")
