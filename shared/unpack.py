"""Unpacks one untrusted Parquet file or Arrow stream, in a process of its own: `unpack.py < header and body > Arrow stream`.

Damaged files crash Arrow's readers (a wrong offset reads foreign memory, a wrong histogram aborts), and a small file can unpack to
any size. Here that ends this process, whose memory is limited and whose environment holds no secret, and nothing else. What comes
out has been checked: only columns that were asked for, each of the one type that its use has. Imports nothing of Relevo.

The header is one line of JSON: `kind` (parquet or arrow), `uses` (use by column name), `required` (names), `max_rows`,
`max_text_bytes`, `max_list`, `max_bytes` (of all rows, unpacked), `memory_bytes` (of this process). A refusal is one line of JSON
on stderr and exit status 3.
"""

import contextlib
import json
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

REFUSED = 3
BATCH_ROWS = 8192
CPU_S = 300
TOO_MUCH = "The upload unpacks to more bytes than an upload may have; send it in parts."


class Refusal(Exception):
    """The file cannot be taken; `kind` is malformed, invalid or too_large."""

    def __init__(self, kind: str, detail: str, errors: list[tuple[str, str]] | None = None) -> None:
        self.kind, self.detail, self.errors = kind, detail, errors or []
        super().__init__(detail)


def unpack(header: dict[str, Any], body: bytes, out: Any) -> None:
    """Write the rows of `body` to `out`, columns cast to what their use needs.

    Raises:
        Refusal: with what is wrong.
    """
    try:
        if header["kind"] == "parquet":
            # Texts stay dictionary-encoded until their length was looked at: one huge value may stand in every row.
            texts = [field.name for field in pq.read_schema(pa.BufferReader(body)) if _is_text(field.type)]
            file = pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
            _check_rows(file.metadata.num_rows, header)
            _copy(file.iter_batches(batch_size=BATCH_ROWS, use_threads=False), file.schema_arrow, header, out)
        else:
            with pa.ipc.open_stream(pa.BufferReader(body)) as stream:
                _copy(stream, stream.schema, header, out)
    except (pa.ArrowMemoryError, MemoryError):
        raise Refusal(
            "too_large", "The upload unpacks to more memory than an upload may take; send it in parts."
        ) from None
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        name = "Parquet file" if header["kind"] == "parquet" else "Arrow stream"
        raise Refusal("malformed", f"The body is not a readable {name} ({type(error).__name__}).") from None


def _copy(batches: Iterable[pa.RecordBatch], schema: pa.Schema, header: dict[str, Any], out: Any) -> None:
    targets = _targets(schema, header)
    plain = pa.schema([(name, _stored(target)) for name, target in zip(schema.names, targets, strict=True)])
    rows = size = 0
    with pa.ipc.new_stream(out, plain) as writer:
        for large in batches:
            large.validate(full=True)
            rows += large.num_rows
            _check_rows(rows, header)
            for start in range(0, large.num_rows, BATCH_ROWS):
                part = large.slice(start, BATCH_ROWS)
                columns = [_plain(part.column(i), target, header) for i, target in enumerate(targets)]
                batch = pa.record_batch(columns, schema=plain)
                size += batch.nbytes
                if size > header["max_bytes"]:
                    raise Refusal("too_large", TOO_MUCH)
                writer.write_batch(batch)


def _check_rows(rows: int, header: dict[str, Any]) -> None:
    if rows > header["max_rows"]:
        raise Refusal("too_large", f"The upload has more than {header['max_rows']} rows; send it in parts.")


def _targets(schema: pa.Schema, header: dict[str, Any]) -> list[pa.DataType]:
    """The type each column is cast to. A type is wrong for all rows or for none: told once, not of each row."""
    uses: dict[str, str] = header["uses"]
    repeated = {name for name, count in Counter(schema.names).items() if count > 1}
    errors: list[tuple[str, str]] = []
    targets = []
    for field in schema:
        if field.name not in uses:
            errors.append((field.name, "is no field of this pipeline"))
        elif field.name in repeated:
            errors.append((field.name, "stands in the file twice"))
        elif (target := _target(field.type, uses[field.name])) is None:
            errors.append((field.name, _EXPECTED[uses[field.name]]))
        else:
            targets.append(target)
    errors += [
        (name, "is required and is no column of the file") for name in header["required"] if name not in schema.names
    ]
    if errors:
        raise Refusal("invalid", "The file does not fit the pipeline", errors)
    return targets


def _target(kind: pa.DataType, use: str) -> pa.DataType | None:
    for fits, fitting_uses, target in _CASTS:
        if use in fitting_uses and fits(kind):
            return target or kind
    return None


def _stored(target: pa.DataType) -> pa.DataType:
    """Times travel as epoch microseconds."""
    return pa.int64() if pa.types.is_timestamp(target) else target


def _plain(column: pa.Array, target: pa.DataType, header: dict[str, Any]) -> pa.Array:
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if (
        _is_text(texts.type)
        and len(texts)
        and (pc.max(pc.binary_length(texts)).as_py() or 0) > header["max_text_bytes"]
    ):
        raise Refusal("invalid", "The file holds a text that is longer than any field may be.")
    if _is_number_list(column.type) and (pc.max(pc.list_value_length(column)).as_py() or 0) > header["max_list"]:
        raise Refusal("invalid", "The file holds a list that is longer than any field may be.")
    if column.type != target:
        column = column.cast(target, safe=False)
    return column.cast(_stored(target))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_any_text(kind: pa.DataType) -> bool:
    return _is_text(kind) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def _is_inexact(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_number_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


_EXPECTED = {
    "text": "must be of type string",
    "number": "must be of a number type",
    "label": "must be of a number type or bool",
    "time": "must be a timestamp with a time zone, int64 epoch microseconds, or ISO 8601 text",
    "vector": "must be a list of numbers",
    "scalar": "must be of a text, number or bool type",
}
_NUMERIC = ("number", "label", "scalar")
_CASTS: tuple[tuple[Callable[[pa.DataType], bool], tuple[str, ...], pa.DataType | None], ...] = (
    (pa.types.is_null, tuple(_EXPECTED), None),
    (_is_any_text, ("text", "time", "scalar"), pa.string()),
    (lambda kind: pa.types.is_timestamp(kind) and bool(kind.tz), ("time",), pa.timestamp("us", "UTC")),
    (pa.types.is_integer, ("time",), pa.int64()),
    (pa.types.is_boolean, ("label", "scalar"), None),
    (pa.types.is_integer, _NUMERIC, None),
    (_is_inexact, _NUMERIC, pa.float64()),
    (_is_number_list, ("vector",), pa.list_(pa.float64())),
)
"""What a type is cast to (None: left as it is) where it may stand for a use."""


def main() -> NoReturn:
    """Read stdin, write stdout, and end."""
    source = sys.stdin.buffer
    header = json.loads(source.readline())
    for limit, value in ((resource.RLIMIT_AS, header["memory_bytes"]), (resource.RLIMIT_CPU, CPU_S)):
        with contextlib.suppress(ValueError, OSError):  # a system that has no such limit, or a lower one already
            resource.setrlimit(limit, (value, value))
    pa.set_cpu_count(1)
    try:
        with open(sys.stdout.fileno(), "wb", buffering=1 << 20, closefd=False) as out:
            unpack(header, source.read(), out)
    except Refusal as refusal:
        line = {"kind": refusal.kind, "detail": refusal.detail, "errors": refusal.errors[:100]}
        sys.stderr.write(json.dumps(line) + "\n")
        sys.exit(REFUSED)
    except MemoryError:
        sys.exit(REFUSED + 1)
    sys.exit(0)


if __name__ == "__main__":
    main()
