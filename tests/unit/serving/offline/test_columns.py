"""What sources give becomes a version's columns; what nobody checked is held to what an instance may hold."""

from typing import Any

import pyarrow as pa
import pytest

from services.serving.offline import columns
from shared.errors import Invalid
from shared.spec import PipelineSpec, parse

AT_US = 1_370_188_800_000_000
SPEC: dict[str, Any] = {
    "name": "wide",
    "task": "regression",
    "key": "id",
    "time": "at",
    "features": {
        "kind": {"type": "category", "vocabulary": 4},
        "size": {"type": "number", "required": True},
        "seen": {"type": "timestamp", "calendar": ["hour"]},
        "shape": {"type": "vector", "length": 2},
    },
    "label": {"name": "price"},
}
GOOD: dict[str, list[Any]] = {
    "id": ["a", "b"],
    "at": [AT_US, AT_US],
    "kind": ["x", None],
    "size": [1, 2],
    "seen": [AT_US, AT_US],
    "shape": [[0.0, 1.0], [2.0, 3.0]],
}
NAMES = {"key": "id", "time": "at"}


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    return parse(SPEC)


def conformed(spec: PipelineSpec, **changes: Any) -> pa.RecordBatch:
    given = {name: values for name, values in {**GOOD, **changes}.items() if values is not None}
    return columns.conform(pa.record_batch(given), spec, NAMES, 4)


def test_columns_come_in_the_specs_order_and_types(spec: PipelineSpec) -> None:
    iso = ["2013-06-02T12:00:00-04:00"] * 2
    stamps = pa.array([AT_US * 1000] * 2, pa.timestamp("ns", "America/New_York"))
    for at in (iso, stamps, GOOD["at"]):
        found = conformed(spec, at=at, kind=None, extra=[1, 2])
        assert found.schema == columns.columns_of(spec)
        assert found.column("time").to_pylist() == [AT_US, AT_US]
        assert found.column("kind").to_pylist() == [None, None]
        assert found.column("size").to_pylist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["id", "at", "size", "seen", "shape"])
def test_a_column_that_is_needed_is_named(spec: PipelineSpec, name: str) -> None:
    with pytest.raises(Invalid, match=f"have no column {name}, which version 4 of wide needs"):
        conformed(spec, **{name: None})


def test_a_column_of_another_type_is_named(spec: PipelineSpec) -> None:
    with pytest.raises(Invalid, match="The column size is string, not double"):
        conformed(spec, size=["big", "small"])
    with pytest.raises(Invalid, match="The column at is string, not int64: must say its offset"):
        conformed(spec, at=["2013-06-02T12:00:00"] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["a", None]}, r"The column id must have 1 to 256 characters \(row 8\)"),
        ({"id": ["x" * 257, "b"]}, r"The column id must have 1 to 256 characters \(row 7\)"),
        ({"id": ["a", "b\0"]}, "The column id must not contain the NUL character"),
        ({"at": [None, AT_US]}, r"The column at is required \(row 7\)"),
        ({"at": [AT_US, -(2**60)]}, "The column at must lie between the years 1900 and 2099"),
        ({"kind": ["x" * 4097, None]}, "The column kind must have at most 4096 characters"),
        ({"size": [1.0, None]}, r"The column size is required \(row 8\)"),
        ({"size": [float("nan"), 1.0]}, "The column size must be a finite number"),
        ({"seen": [AT_US, 2**62]}, "The column seen must lie between"),
        ({"shape": [[0.0], [1.0, 2.0]]}, r"The column shape must be a list of 2 numbers \(row 7\)"),
        ({"shape": [[0.0, 1.0], [1.0, None]]}, r"finite numbers, none missing \(row 8\)"),
        ({"shape": [[0.0, 1.0], None]}, r"The column shape is required \(row 8\)"),
    ],
)
def test_a_value_that_no_instance_may_hold_is_named(spec: PipelineSpec, changes: dict[str, Any], message: str) -> None:
    columns.check_values(conformed(spec), spec, 7)
    with pytest.raises(Invalid, match=message):
        columns.check_values(conformed(spec, **changes), spec, 7)


def test_batches_are_cut_to_one_size(spec: PipelineSpec) -> None:
    whole = pa.record_batch({"n": list(range(23))})
    parts = [whole.slice(0, 1), whole.slice(1, 11), whole.slice(12, 2), whole.slice(14, 9)]
    cut = list(columns.rebatched(iter(parts), 5))
    assert [len(part) for part in cut] == [5, 5, 5, 5, 3]
    assert [value for part in cut for value in part.column("n").to_pylist()] == list(range(23))
    assert list(columns.rebatched(iter([]), 5)) == []


def test_wide_rows_make_small_batches(spec: PipelineSpec) -> None:
    wide = parse({**SPEC, "features": {"shape": {"type": "vector", "length": 4000}}})
    assert columns.batch_rows(spec) == columns.MOST_ROWS
    assert columns.batch_rows(wide) == columns.LEAST_ROWS
