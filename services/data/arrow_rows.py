"""Rows out of Parquet files and Arrow streams.

`unpack.py` reads the untrusted bytes, in a process of its own; this reads what it made of them.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pyarrow as pa

from services.data.config import DataSettings
from services.data.rows import LABEL_TIME
from shared.errors import FieldError, Invalid, Malformed, TooLarge
from shared.instances import AVAILABLE_AT, MAX_PROBLEMS, MAX_VALUE_CHARS, shown_name
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, VectorFeature

_PROGRAM = Path(__file__).with_name("unpack.py")
_BASE_BYTES = 2**30
"""More than the address space of an interpreter with Arrow loaded, before it reads anything."""
_MAX_REPORT_BYTES = 1 << 20


def parquet_rows(body: bytes, spec: PipelineSpec, limits: DataSettings) -> Generator[list[object], None, None]:
    """The rows of a Parquet file, in chunks.

    Raises:
        Malformed, Invalid, TooLarge: as `services.data.decode.decode`.
    """
    if not (body.startswith(b"PAR1") and body.endswith(b"PAR1") and len(body) > 8):
        raise Malformed("The body is not a Parquet file.")
    return _rows("parquet", body, spec, limits)


def arrow_rows(body: bytes, spec: PipelineSpec, limits: DataSettings) -> Generator[list[object], None, None]:
    """The rows of an Arrow IPC stream, in chunks.

    Raises:
        Malformed, Invalid, TooLarge: as `services.data.decode.decode`.
    """
    if len(body) < 8:
        raise Malformed("The body is not an Arrow stream.")
    return _rows("arrow", body, spec, limits)


def _rows(kind: str, body: bytes, spec: PipelineSpec, limits: DataSettings) -> Generator[list[object], None, None]:
    header = {
        "kind": kind,
        "uses": _uses(spec),
        "required": [spec.key, spec.time],
        "max_rows": limits.upload_max_rows,
        "max_text_bytes": 4 * MAX_VALUE_CHARS,
        "max_list": max((f.length for f in spec.features.values() if isinstance(f, VectorFeature)), default=0),
        "max_bytes": limits.upload_decoded_bytes,
        # Read, unpacked and cast: at most a few batches at once, unless a batch is the bomb.
        "memory_bytes": _BASE_BYTES + len(body) + limits.upload_decoded_bytes,
    }
    chunk: list[object] = []
    with contextlib.closing(_unpacked(header, body)) as batches:
        for batch in batches:
            columns = [column.to_pylist() for column in batch.columns]
            chunk += [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
            while len(chunk) >= limits.chunk_rows:
                yield chunk[: limits.chunk_rows]
                chunk = chunk[limits.chunk_rows :]
    if chunk:
        yield chunk


def _unpacked(header: dict[str, Any], body: bytes) -> Generator[pa.RecordBatch, None, None]:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as report:
        given.write(orjson.dumps(header) + b"\n")
        given.write(body)
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=report,
            # No setting and so no secret of this process reaches it. Arrow's own allocators reserve more than they use.
            env={"ARROW_DEFAULT_MEMORY_POOL": "system"},
        )
        assert process.stdout is not None
        try:
            # A stream that breaks off is told from one that ends by the exit status alone.
            with contextlib.suppress(pa.ArrowInvalid, OSError), pa.ipc.open_stream(process.stdout) as stream:
                yield from stream
            process.stdout.close()  # one that would still write to a stream given up on ends by that
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if status != 0:
            report.seek(0)
            _refuse(header["kind"], report.read(_MAX_REPORT_BYTES))


def _refuse(kind: str, report: bytes) -> NoReturn:
    try:
        refusal = orjson.loads(report)
        detail = str(refusal["detail"])
        errors: list[FieldError] = [{"loc": [shown_name(name)], "msg": msg} for name, msg in refusal["errors"]]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        # It crashed, or met a limit.
        name = "Parquet file" if kind == "parquet" else "Arrow stream"
        raise Malformed(f"The body is not a readable {name}, or unpacks to more than an upload may.") from None
    if refusal["kind"] == "too_large":
        raise TooLarge(detail)
    if refusal["kind"] == "malformed":
        raise Malformed(detail)
    if errors:
        detail = f"{detail}: column {errors[0]['loc'][0]} {errors[0]['msg']}."
    raise Invalid(detail, errors=errors[:MAX_PROBLEMS])


def _uses(spec: PipelineSpec) -> dict[str, str]:
    """What each column an upload may have is used as."""
    uses = dict.fromkeys((spec.entity or spec.key, *spec.columns), "scalar")
    for name, feature in spec.input_features.items():
        match feature:
            case NumberFeature():
                uses[name] = "number"
            case CategoryFeature():
                uses[name] = "text"
            case VectorFeature():
                uses[name] = "vector"
            case _:
                uses[name] = "time"
    return uses | {
        spec.key: "text",
        spec.time: "time",
        AVAILABLE_AT: "time",
        LABEL_TIME: "time",
        spec.label.name: "label",
    }
