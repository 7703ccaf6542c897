"""Statistics of a column, against numpy or by hand."""

from datetime import UTC, datetime

import numpy as np
import orjson
import pyarrow as pa
import pytest

from services.data.statistics import column_statistics


def test_numbers() -> None:
    values = np.random.default_rng(7).normal(3, 2, 1000)
    found = column_statistics(pa.chunked_array([values.tolist(), [None, None]]))

    assert (found["type"], found["count"], found["missing"]) == ("number", 1000, 2)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["quantiles"]["0.95"] == pytest.approx(np.quantile(values, 0.95))


def test_huge_numbers_do_not_overflow() -> None:
    found = column_statistics(pa.chunked_array([[1e308, -1e308, 1e308]]))
    assert found["mean"] == pytest.approx(1e308 / 3)
    orjson.dumps(found)
    assert all(value is None or np.isfinite(value) for value in found["quantiles"].values())


def test_categories_list_the_most_frequent_first_and_ties_by_name() -> None:
    found = column_statistics(pa.chunked_array([["b", "a", "c", "c", None, "x" * 500]]))
    assert (found["count"], found["missing"], found["distinct"]) == (5, 1, 4)
    assert found["top"] == [["c", 2], ["a", 1], ["b", 1], ["x" * 100, 1]]


def test_times_and_vectors() -> None:
    times = pa.chunked_array(
        [[datetime(2024, 1, 2, tzinfo=UTC), None, datetime(2024, 1, 1, tzinfo=UTC)]], pa.timestamp("us", "UTC")
    )
    found = column_statistics(times)
    assert (found["min"], found["max"]) == ("2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00")
    found = column_statistics(pa.chunked_array([[[1.0, 2.0], [3.0, 6.0]]]))
    assert (found["length"], found["mean"]) == (2, 3.0)


@pytest.mark.parametrize("kind", [pa.float64(), pa.string(), pa.timestamp("us", "UTC"), pa.list_(pa.float64())])
def test_a_column_without_values(kind: pa.DataType) -> None:
    found = column_statistics(pa.chunked_array([pa.array([None, None], kind)]))
    assert (found["count"], found["missing"]) == (0, 2)
    orjson.dumps(found)
