"""Rows that come as tensors are the rows that /predict reads of the same values."""

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.models.loader import codec_for
from services.serving.models.model import read_signature
from services.serving.oip.rows import read_tensors
from services.serving.oip.tensors import DTYPES, Tensor
from services.serving.rows import Row, RowCodec, to_json
from shared.errors import Invalid
from shared.instances import epoch_us
from shared.spec import parse
from tests.unit.serving.test_rows import AT, SIGNATURE, SPEC, TRIPS
from tests.unit.serving.vector_model import vector_codec

AT_US = epoch_us(AT)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MOMENTS = st.integers(0, 4 * 10**15)
FIELDS: dict[str, tuple[str, Any]] = {
    "trip": ("BYTES", st.text("abc", min_size=1, max_size=5)),
    "starts": ("INT64", MOMENTS),
    "class": ("BYTES", st.text("abc", min_size=1, max_size=3)),
    "fare": ("FP32", FLOATS),
    "booked": ("INT64", MOMENTS),
    "where": ("FP32", st.lists(FLOATS, min_size=2, max_size=2)),
}
OPTIONAL: dict[str, tuple[str, Any]] = {
    "zone": ("BYTES", TEXTS),
    "distance": ("FP64", st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))),
    "driver": ("BYTES", TEXTS),
    "note": ("INT64", st.integers(-(2**63), 2**63 - 1)),
    "available_at": ("INT64", st.integers(0, AT_US + 10**8)),
}


def tensor(name: str, datatype: str, values: list[Any]) -> Tensor:
    array = values if datatype == "BYTES" else np.array(values, DTYPES[datatype])
    return Tensor(name, datatype, (len(values),) if datatype == "BYTES" else np.shape(array), array)


def rows_of(codec: RowCodec, *tensors: Tensor, max_rows: int = 10) -> list[Row]:
    return read_tensors(codec, tensors, received_us=AT_US, request="f" * 32, max_rows=max_rows)


@given(st.data(), st.integers(1, 3))
def test_tensors_mean_what_instances_mean(data: st.DataObject, count: int) -> None:
    fields = FIELDS | {name: OPTIONAL[name] for name in data.draw(st.sets(st.sampled_from(sorted(OPTIONAL))))}
    columns = {name: data.draw(st.lists(kind, min_size=count, max_size=count)) for name, (_, kind) in fields.items()}
    rows = rows_of(TRIPS, *(tensor(name, fields[name][0], values) for name, values in columns.items()))
    instances = [{name: values[row] for name, values in columns.items()} for row in range(count)]
    wanted = TRIPS.read(orjson.loads(orjson.dumps(instances)), AT)
    assert shortest(to_json(rows)) == shortest(to_json(wanted))
    found, expected = TRIPS.feeds([rows]), TRIPS.feeds([wanted])
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def shortest(document: bytes) -> Any:
    """Logged rows with every float as float32: a float32 is logged as the shortest decimal that means it."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walk(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        with np.errstate(over="ignore"):
            return float(np.float32(value)) if isinstance(value, float) else value

    return walk(orjson.loads(document))


def good(**changes: Any) -> list[Tensor]:
    """One good row; a name given as None is left out."""
    tensors = {
        "trip": tensor("trip", "BYTES", ["t-1"]),
        "starts": tensor("starts", "INT64", [AT_US]),
        "class": tensor("class", "BYTES", ["van"]),
        "fare": tensor("fare", "FP32", [0.1]),
        "booked": tensor("booked", "INT64", [AT_US]),
        "where": tensor("where", "FP32", [[0.1, 2]]),
        **{name: change and tensor(name, *change) for name, change in changes.items()},
    }
    return [given for given in tensors.values() if given is not None]


def test_numbers_are_logged_as_they_were_meant() -> None:
    (row,) = orjson.loads(to_json(rows_of(TRIPS, *good(distance=("FP64", [0.1])))))
    assert (row["fare"], row["where"], row["distance"]) == (0.1, [0.1, 2.0], 0.1)
    (row,) = orjson.loads(to_json(rows_of(TRIPS, *good(distance=("INT8", [-3]), where=("INT64", [[1, 2]])))))
    assert (row["distance"], row["where"]) == (-3.0, [1.0, 2.0])
    (row,) = orjson.loads(to_json(rows_of(TRIPS, *good(fare=("FP32", [-0.0])))))
    assert math.copysign(1, row["fare"]) == 1, "-0.0 and 0.0 are one content"


def test_what_is_missing_is_left_out_and_has_its_default() -> None:
    codec = vector_codec(2)
    (first, second) = rows_of(codec, tensor("embedding", "FP32", [[1, 2], [3, 4]]))
    assert [first.key, second.key] == ["f" * 32 + "-0", "f" * 32 + "-1"]
    assert (first.time, first.available_at) == (AT_US, AT_US), "the model takes no time: it is the receipt"
    (row,) = orjson.loads(to_json(rows_of(TRIPS, *good(distance=("FP32", [np.nan]), zone=("BYTES", [""])))))
    assert "distance" not in row
    assert "zone" not in row
    (row,) = orjson.loads(to_json(rows_of(TRIPS, *good(note=("FP32", [np.nan]), driver=("BOOL", [True])))))
    assert "note" not in row
    assert row["driver"] is True


def test_a_column_may_have_a_second_dimension_of_one() -> None:
    (row,) = rows_of(TRIPS, *good(fare=("FP32", [[0.5]])))
    assert to_json([row]) == to_json(rows_of(TRIPS, *good(fare=("FP32", [0.5]))))


def test_what_a_newer_spec_adds_is_taken_and_not_used() -> None:
    spec, newer = (
        parse(SPEC),
        parse({**SPEC, "features": {**SPEC["features"], "seen": {"type": "timestamp", "calendar": ["hour"]}}}),
    )
    codec = codec_for(spec, newer, read_signature(SIGNATURE))
    (row,) = rows_of(codec, *good(seen=("INT64", [AT_US])))
    assert to_json([row]) == to_json(rows_of(TRIPS, *good()))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no time": ({"starts": None}, "were not sent: starts"),
    "no required number": ({"fare": None}, "were not sent: fare"),
    "no vector": ({"where": None}, "were not sent: where"),
    "missing required number": ({"fare": ("FP32", [np.nan])}, "fare is required, and missing in row 0"),
    "missing required text": ({"class": ("BYTES", [""])}, "class is required, and missing in row 0"),
    "infinity": ({"fare": ("FP32", [np.inf])}, "fare must be finite; NaN means missing (row 0)"),
    "infinite FP16": ({"distance": ("FP16", [-np.inf])}, "distance must be finite"),
    "infinite column": ({"note": ("FP64", [np.inf])}, "note must be finite"),
    "NaN in a vector": ({"where": ("FP32", [[1, np.nan]])}, "where must be finite numbers, none missing (row 0)"),
    "infinity in a vector": ({"where": ("FP64", [[np.inf, 1]])}, "where must be finite numbers"),
    "another length": ({"where": ("FP32", [[1, 2, 3]])}, "where is FP32 [1, 3]; send FP32 of the shape [rows, 2]"),
    "flat vector": ({"where": ("FP32", [1.0])}, "where is FP32 [1]"),
    "text vector": ({"where": ("BYTES", ["x"])}, "where is BYTES [1]"),
    "text as a number": ({"fare": ("BYTES", ["1"])}, "fare is BYTES; send it as FP32"),
    "truth as a number": ({"fare": ("BOOL", [True])}, "fare is BOOL; send it as FP32"),
    "number as a text": ({"class": ("INT64", [7])}, "class is INT64; send it as BYTES"),
    "number as a key": ({"trip": ("INT64", [7])}, "trip is INT64; send it as BYTES"),
    "empty key": ({"trip": ("BYTES", [""])}, "trip must have 1 to 256 characters (row 0)"),
    "no key in JSON": ({"trip": ("BYTES", [None])}, "trip is required, and missing in row 0"),
    "long text": ({"zone": ("BYTES", ["x" * 4097])}, "zone must have at most 4096 characters (row 0)"),
    "NUL": ({"zone": ("BYTES", ["a\0"])}, "zone must not contain the NUL character"),
    "two columns": ({"fare": ("FP32", [[1, 2]])}, "fare has the shape [1, 2]; it is one value a row: send [1]"),
    "a float as a time": ({"starts": ("FP64", [1.0])}, "starts is FP64; send it as INT64"),
    "a text as a time": ({"booked": ("BYTES", ["now"])}, "booked is BYTES; send it as INT64"),
    "a time too late": ({"booked": ("INT64", [2**62])}, "booked must be epoch microseconds between"),
    "a time beyond INT64": ({"booked": ("UINT64", [2**63])}, "booked must be epoch microseconds between"),
    "available too late": ({"available_at": ("INT64", [AT_US + 10**9])}, "available_at must not be later than the receipt"),
    "unknown": ({"late": ("FP32", [1])}, "late is no input of this pipeline; it takes trip, starts"),
    "more rows": ({"fare": ("FP32", [1, 2])}, "fare has 2 rows, but trip has 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_named(what: str) -> None:
    changes, said = BAD[what]
    with pytest.raises(Invalid) as caught:
        rows_of(TRIPS, *good(**changes))
    assert said in caught.value.detail
    assert caught.value.errors[0]["loc"][:2] == ["body", "inputs"]


def test_too_many_rows_are_refused_and_a_clock_may_run_ahead_a_little() -> None:
    with pytest.raises(Invalid, match="at most 1"):
        rows_of(vector_codec(2), tensor("embedding", "FP32", [[1, 2], [3, 4]]), max_rows=1)
    (row,) = rows_of(TRIPS, *good(available_at=("INT64", [AT_US + 10**6])))
    assert row.available_at == AT_US
