"""Arrow columns as tensors: what each kind becomes, and what is refused."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from services.trainer.transform import feeds_of, read_labels
from shared.errors import Invalid
from shared.feeds import times_us
from tests.unit.trainer.samples import START_US, sample_columns, sample_spec, sample_table


def test_every_kind_has_its_dtype_and_shape() -> None:
    feeds = feeds_of(sample_table(50), sample_spec())
    assert {name: (values.dtype.name, values.shape) for name, values in feeds.items()} == {
        "city": ("object", (50,)),
        "kind": ("object", (50,)),
        "size": ("float32", (50,)),
        "price": ("float32", (50,)),
        "at": ("int64", (50,)),
        "embedding": ("float32", (50, 3)),
    }


def test_nulls_become_the_empty_string_and_nan() -> None:
    table = sample_table(2, city=pa.array([None, "Rome"], pa.string()), size=pa.array([None, 2.0], pa.float64()))
    feeds = feeds_of(table, sample_spec())
    assert feeds["city"].tolist() == ["", "Rome"]
    assert np.isnan(feeds["size"][0])
    assert feeds["size"][1] == 2


@pytest.mark.parametrize(
    "column",
    [
        pa.array([START_US, START_US + 1], pa.int64()),
        pa.array([START_US, START_US + 1], pa.timestamp("us", tz="UTC")),
        pa.array([START_US * 1000, START_US * 1000 + 1000], pa.timestamp("ns", tz="UTC")),
    ],
    ids=["int64", "microseconds", "nanoseconds"],
)
def test_times_are_epoch_microseconds_whatever_the_column_is(column: pa.Array) -> None:
    table = sample_table(2, at=column, time=column)
    assert feeds_of(table, sample_spec())["at"].tolist() == [START_US, START_US + 1]
    assert times_us(table).tolist() == [START_US, START_US + 1]


def test_dictionary_encoded_texts_and_sliced_chunks_are_read() -> None:
    table = sample_table(40)
    encoded = table.set_column(table.column_names.index("city"), "city", table.column("city").dictionary_encode())
    pieces = pa.concat_tables([encoded.slice(0, 15), encoded.slice(15)]).slice(5)
    whole = feeds_of(table, sample_spec())
    for name, values in feeds_of(pieces, sample_spec()).items():
        np.testing.assert_array_equal(values, whole[name][5:])


def test_a_number_too_large_for_float32_becomes_infinite() -> None:
    assert np.isinf(feeds_of(sample_table(2, size=[1e300, 1.0]), sample_spec())["size"][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"city": [{"a": 1}, {"a": 2}]}, "city is struct"),
        ({"size": ["large", "small"]}, "size is string"),
        ({"at": pa.array([None, START_US], pa.timestamp("us", tz="UTC"))}, "at has 1 nulls"),
        ({"embedding": [[1.0, 2.0, 3.0], [1.0]]}, "embedding must hold lists of exactly 3"),
        ({"embedding": [[1.0, 2.0, 3.0], None]}, "embedding must hold lists of exactly 3"),
        ({"embedding": [[1.0, 2.0, 3.0], [1.0, None, 3.0]]}, "embedding holds numbers that are"),
        ({"embedding": [[1.0, 2.0, 3.0], [1.0, float("inf"), 3.0]]}, "embedding holds numbers"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        feeds_of(sample_table(2, **changes), sample_spec())


def test_a_missing_column_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="no column size"):
        feeds_of(sample_table(2).drop_columns(["size"]), sample_spec())


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), float("-inf")])
def test_a_label_that_is_not_finite_is_refused(bad: float | None) -> None:
    table = sample_table(3, label=pa.array([0.0, bad, 1.0], pa.float64()))
    with pytest.raises(Invalid, match="1 of 3 labels are missing, NaN or infinite"):
        read_labels(table, sample_spec())


def test_a_label_beyond_float32_is_refused() -> None:
    with pytest.raises(Invalid, match="use a larger unit"):
        read_labels(sample_table(2, label=[1.0, 1e39]), sample_spec(task="regression"))


def test_a_binary_label_is_zero_or_one_and_a_regression_label_any_number() -> None:
    table = pa.table({**sample_columns(3), "label": [0.0, 0.5, 1.0]})
    with pytest.raises(Invalid, match="neither 0 nor 1"):
        read_labels(table, sample_spec())
    assert read_labels(table, sample_spec(task="regression")).tolist() == [0.0, 0.5, 1.0]
