"""Uploaded Parquet files and Arrow streams as checked record batches.

`unpack.py` reads the untrusted bytes, in a process of its own; this reads what it made of them.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import orjson
import pyarrow as pa

from shared.errors import FieldError, Invalid, Malformed, TooLarge
from shared.instances import AVAILABLE_AT, MAX_PROBLEMS, MAX_VALUE_CHARS, shown_name
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, VectorFeature

_PROGRAM = Path(__file__).with_name("unpack.py")
_BASE_BYTES = 2**30
"""More than the address space of an interpreter with Arrow loaded, before it reads anything."""
_MAX_REPORT_BYTES = 1 << 20

Kind = Literal["parquet", "arrow"]


def unpacked(
    kind: Kind,
    body: bytes,
    spec: PipelineSpec,
    uses: Mapping[str, str],
    *,
    required: Collection[str],
    max_rows: int,
    max_bytes: int,
) -> Generator[pa.RecordBatch, None, None]:
    """The rows of an upload, each column of the one type that its use has. Close it when not read to its end.

    Args:
        uses: what each column that the upload may have is used as (`instance_uses`).
        required: columns it must have.
        max_bytes: most bytes that it may unpack to.

    Raises:
        Malformed: the body is not what `kind` says.
        Invalid: a column is none that it may have, is missing, or has a type that cannot fit; the message names it.
        TooLarge: more rows or bytes than allowed.
    """
    name = "a Parquet file" if kind == "parquet" else "an Arrow stream"
    framed = body.startswith(b"PAR1") and body.endswith(b"PAR1") if kind == "parquet" else True
    if len(body) < 8 or not framed:
        raise Malformed(f"The body is not {name}.")
    header = {
        "kind": kind,
        "uses": dict(uses),
        "required": list(required),
        "max_rows": max_rows,
        "max_text_bytes": 4 * MAX_VALUE_CHARS,
        "max_list": max((f.length for f in spec.features.values() if isinstance(f, VectorFeature)), default=0),
        "max_bytes": max_bytes,
        # Read, unpacked and cast: at most a few batches at once, unless a batch is the bomb.
        "memory_bytes": _BASE_BYTES + len(body) + max_bytes,
    }
    return _unpacked(header, body)


def instance_uses(spec: PipelineSpec) -> dict[str, str]:
    """What each column that describes an example is used as."""
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
    return uses | {spec.key: "text", spec.time: "time", AVAILABLE_AT: "time"}


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
