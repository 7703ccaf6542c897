"""Bodies of every content type become the same rows, and bounds hold for what small bodies unpack to."""

import contextlib
import io
import random
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.config import DataSettings
from services.data.decode import EVENT_TYPES, LABEL_TYPES, MediaType, decode, media_type
from services.data.ingest import Target
from services.data.routes import rows as routes
from services.data.rows import EventReader, Unreadable
from shared.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from shared.spec import parse
from tests.unit.data.samples import SPEC, labelled

SPEC_READ = parse(SPEC)
LIMITS = DataSettings()
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ROWS = [labelled(number, number / 4) for number in range(5)]
TIMES = ("began", "booked", "available_at", "label_time")


def table(**columns: pa.Array) -> pa.Table:
    """The sample rows with columns replaced; times as timestamps."""
    data: dict[str, Any] = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    for name in TIMES:
        data[name] = pa.array([datetime.fromisoformat(value) for value in data[name]], pa.timestamp("us", "UTC"))
    return pa.table({**data, **columns})


def parquet(rows: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, **options)
    return buffer.getvalue()


def arrow(rows: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue())


def read(body: bytes, kind: MediaType, limits: DataSettings = LIMITS) -> list[object]:
    return [row for chunk in decode(body, kind, SPEC_READ, limits) for row in chunk]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (MediaType.JSON, orjson.dumps(ROWS)),
        (MediaType.NDJSON, b"\n".join(orjson.dumps(row) for row in ROWS) + b"\n\n"),
        (MediaType.PARQUET, parquet(table())),
        (MediaType.ARROW, arrow(table())),
        (MediaType.ARROW, arrow(table(carrier=pa.array([row["carrier"] for row in ROWS]).dictionary_encode()))),
        (MediaType.PARQUET, parquet(table(distance=pa.array([row["distance"] for row in ROWS], pa.float32())))),
        (MediaType.PARQUET, parquet(table(began=pa.array([row["began"] for row in ROWS])))),
        (MediaType.PARQUET, parquet(table(late=pa.array([row["late"] == 1 for row in ROWS])))),
        (
            MediaType.PARQUET,
            parquet(table(embedding=pa.array([row["embedding"] for row in ROWS], pa.list_(pa.float32(), 2)))),
        ),
    ],
)
def test_every_type_gives_the_same_events(kind: MediaType, body: bytes) -> None:
    reader = EventReader(SPEC_READ)
    expected = [reader.read(row, NOW) for row in ROWS]
    assert [reader.read(row, NOW) for row in read(body, kind)] == expected


def test_rows_come_in_chunks() -> None:
    small = DataSettings(chunk_rows=2)
    for kind, body in ((MediaType.JSON, orjson.dumps(ROWS)), (MediaType.PARQUET, parquet(table()))):
        assert [len(chunk) for chunk in decode(body, kind, SPEC_READ, small)] == [2, 2, 1]


def test_a_line_that_is_not_json_is_one_row() -> None:
    rows = read(b'{"trip": 1}\n{"trip": NaN}\n\xff\n  \n[1]', MediaType.NDJSON)
    assert [type(row) for row in rows] == [dict, Unreadable, Unreadable, list]


@pytest.mark.parametrize("kind", EVENT_TYPES)
@pytest.mark.parametrize(
    "body", [b"", b"\x00", b"PAR1", b"PAR1" + b"\xff" * 64 + b"PAR1", b"{", b"\xff\xff\xff\xff\x00"]
)
def test_garbage_is_an_error_that_says_so_or_rows_that_cannot_be_read(kind: MediaType, body: bytes) -> None:
    if kind is MediaType.NDJSON:
        assert all(isinstance(row, Unreadable) for row in read(body, kind))
        return
    with pytest.raises((Malformed, Invalid)):
        read(body, kind)


def test_json_must_be_an_array() -> None:
    with pytest.raises(Invalid, match="array"):
        read(b"{}", MediaType.JSON)


@pytest.mark.parametrize(
    ("rows", "column", "says"),
    [
        (table(extra=pa.array([1] * 5)), "extra", "no field"),
        (table().drop_columns(["trip"]), "trip", "required"),
        (table().drop_columns(["began"]), "began", "required"),
        (table(trip=pa.array([1] * 5)), "trip", "string"),
        (table(carrier=pa.array([1] * 5)), "carrier", "string"),
        (table(distance=pa.array(["1"] * 5)), "distance", "number"),
        (table(distance=pa.array([True] * 5)), "distance", "number"),
        (table(began=pa.array([0] * 5, pa.timestamp("us"))), "began", "time zone"),
        (table(began=pa.array([1.5] * 5)), "began", "time zone"),
        (table(embedding=pa.array([["a"]] * 5)), "embedding", "list of numbers"),
        (table(city=pa.array([[1]] * 5)), "city", "text, number or bool"),
        (table(late=pa.array(["1"] * 5)), "late", "number type or bool"),
    ],
)
def test_a_file_with_a_column_that_does_not_fit_is_refused_once(rows: pa.Table, column: str, says: str) -> None:
    for kind, body in ((MediaType.PARQUET, parquet(rows)), (MediaType.ARROW, arrow(rows))):
        with pytest.raises(Invalid) as caught:
            read(body, kind)
        assert caught.value.errors[0]["loc"] == [column]
        assert says in caught.value.errors[0]["msg"]


def test_a_column_twice_is_refused() -> None:
    rows = pa.Table.from_arrays([*table().columns, table()["city"]], names=[*table().column_names, "city"])
    with pytest.raises((Invalid, Malformed)):
        read(arrow(rows), MediaType.ARROW)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_streams_are_read(compression: str) -> None:
    assert len(read(arrow(table(), compression), MediaType.ARROW)) == 5


@pytest.mark.parametrize("kind", [MediaType.PARQUET, MediaType.ARROW])
def test_a_file_that_unpacks_beyond_the_limit_is_refused(kind: MediaType) -> None:
    numbers = 20_000_000
    zeros = pa.ListArray.from_arrays(pa.array([0, numbers], pa.int32()), pa.array(np.zeros(numbers, np.int8)))
    bomb = pa.table({"trip": ["a"], "began": pa.array([0]), "embedding": zeros})
    body = parquet(bomb, compression="zstd") if kind is MediaType.PARQUET else arrow(bomb, "zstd")
    assert len(body) < 100_000
    with pytest.raises((TooLarge, Invalid, Malformed), match=r"unpacks|longer than any"):
        read(body, kind, DataSettings(upload_decoded_bytes=64 * 2**20))


def test_many_rows_that_unpack_beyond_the_limit_are_refused() -> None:
    rows = 100_000
    body = parquet(pa.table({"trip": ["a"] * rows, "began": pa.array([0] * rows), "carrier": ["x" * 1000] * rows}))
    assert len(body) < 100_000
    with pytest.raises(TooLarge, match="unpacks"):
        read(body, MediaType.PARQUET, DataSettings(upload_decoded_bytes=2**20))


def test_damaged_files_never_hurt_this_process() -> None:
    """Each of these bytes, changed, has crashed Arrow's readers by a wrong offset or an uncaught error of theirs."""
    chance = random.Random(7)
    for kind, body in ((MediaType.PARQUET, parquet(table())), (MediaType.ARROW, arrow(table()))):
        for _ in range(8):
            damaged = bytearray(body)
            for _ in range(4):
                damaged[chance.randrange(8, len(damaged) - 8)] = chance.randrange(256)
            with contextlib.suppress(Malformed, Invalid, TooLarge):
                read(bytes(damaged), kind)


def test_an_upload_that_breaks_off_leaves_no_process_behind() -> None:
    """Not even as long as the error is kept, whose traceback holds on to the rows."""

    class Away:
        def begin(self) -> NoReturn:
            raise ConnectionError("the registry is away")

    body = parquet(pa.concat_tables([table()] * 20_000))  # more than a pipe holds: the process is in the midst of it
    state = SimpleNamespace(sessions=Away(), data_settings=DataSettings(chunk_rows=100))
    request: Any = SimpleNamespace(app=SimpleNamespace(state=state))
    target = Target(uuid.uuid4(), "trips", SPEC_READ, 1, NOW)
    with pytest.raises(ConnectionError) as kept:
        routes._take_events(request, target, MediaType.PARQUET, body)
    assert [child for child in psutil.Process().children() if "unpack" in " ".join(child.cmdline())] == []
    assert kept.tb is not None


def test_bounds_on_rows() -> None:
    few = DataSettings(upload_max_rows=4)
    bodies = {
        MediaType.JSON: orjson.dumps(ROWS),
        MediaType.NDJSON: b"{}\n" * 5,
        MediaType.PARQUET: parquet(table()),
        MediaType.ARROW: arrow(table()),
    }
    for kind, body in bodies.items():
        with pytest.raises(TooLarge, match="4 rows"):
            read(body, kind, few)


def test_one_huge_text_repeated_in_every_row_is_refused_before_it_unpacks() -> None:
    rows = 20_000
    huge = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 1_000_000]))
    bomb = pa.table({"trip": pa.array(["a"] * rows), "began": pa.array([0] * rows), "carrier": huge})
    body = parquet(bomb)
    assert len(body) < 2_000_000
    for kind, packed in ((MediaType.PARQUET, body), (MediaType.ARROW, arrow(bomb))):
        with pytest.raises(Invalid, match="longer than any field"):
            read(packed, kind)


@pytest.mark.parametrize("header", [None, "", "text/plain", "application/jsonx", "multipart/form-data"])
def test_other_content_types_are_unsupported(header: str | None) -> None:
    with pytest.raises(UnsupportedMedia, match="application/json"):
        media_type(header, LABEL_TYPES)


def test_parameters_of_a_content_type_do_not_matter() -> None:
    assert media_type("Application/JSON; charset=utf-8", LABEL_TYPES) is MediaType.JSON
