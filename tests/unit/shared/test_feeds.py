"""Stored rows as input tensors, and a model run over them in batches."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from shared.errors import Invalid
from shared.feeds import feeds_of, labels_of, times_us
from shared.scoring import open_model, score
from tests.onnx_models import linear_model

INPUTS = [
    {"name": "carrier", "kind": "category"},
    {"name": "distance", "kind": "number"},
    {"name": "departure", "kind": "timestamp"},
    {"name": "image", "kind": "vector", "length": 2},
]


def table(**columns: object) -> pa.Table:
    given = {
        "carrier": pa.array(["UA", None]),
        "distance": pa.array([1.5, None], pa.float64()),
        "departure": pa.array([datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)] * 2, pa.timestamp("ms", tz="UTC")),
        "image": pa.array([[1.0, 2.0], [3.0, 4.0]]),
        **columns,
    }
    return pa.table(given)


def test_each_kind() -> None:
    feeds = feeds_of(table(), INPUTS)
    assert feeds["carrier"].tolist() == ["UA", ""]
    assert feeds["carrier"].dtype == object
    np.testing.assert_array_equal(feeds["distance"], np.array([1.5, np.nan], np.float32))
    assert feeds["distance"].dtype == np.float32
    assert feeds["departure"].tolist() == [1_000_000] * 2
    assert (feeds["image"].shape, feeds["image"].dtype) == ((2, 2), np.float32)


def test_integers_are_numbers_and_what_float32_cannot_hold_is_infinite() -> None:
    assert feeds_of(table(distance=pa.array([7, 8])), INPUTS)["distance"].tolist() == [7.0, 8.0]
    assert np.isinf(feeds_of(table(distance=pa.array([1e300, -1e300])), INPUTS)["distance"]).all()


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"distance": pa.array(["a", "b"])}, "distance"),
        ({"departure": pa.array([None, None], pa.timestamp("us", tz="UTC"))}, "2 nulls"),
        ({"image": pa.array([[1.0], [2.0, 3.0]])}, "exactly 2 numbers"),
        ({"image": pa.array([[1.0, None], [2.0, 3.0]])}, "missing, NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_named(columns: dict[str, object], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        feeds_of(table(**columns), INPUTS)


def test_a_missing_column_and_an_unknown_kind() -> None:
    with pytest.raises(Invalid, match="no column gone"):
        feeds_of(table(), [{"name": "gone", "kind": "number"}])
    with pytest.raises(Invalid, match="'sound'"):
        feeds_of(table(), [{"name": "carrier", "kind": "sound"}])


def test_labels_and_times() -> None:
    rows = pa.table({"label": [0.0, 1.0], "time": pa.array([1, 2], pa.timestamp("us", tz="UTC"))})
    assert labels_of(rows).tolist() == [0.0, 1.0]
    assert times_us(rows).tolist() == [1, 2]
    with pytest.raises(Invalid, match="1 of 2 labels"):
        labels_of(pa.table({"label": [0.0, None]}))


def test_a_model_scores_in_batches_as_in_one() -> None:
    model = open_model(linear_model(2.0, 1.0, sigmoid=False), threads=1)
    distance = np.linspace(-1, 1, 10, dtype=np.float32)
    feeds = {"distance": distance, "carrier": np.array([""] * 10, dtype=object)}
    np.testing.assert_allclose(score(model, feeds), 2 * distance + 1, rtol=1e-6)
    np.testing.assert_array_equal(score(model, feeds, batch_rows=3), score(model, feeds))
    assert score(model, {name: values[:0] for name, values in feeds.items()}).shape == (0,)


def test_a_model_that_does_not_fit_says_so() -> None:
    with pytest.raises(Invalid, match="cannot load"):
        open_model(b"no model", threads=1)
    model = open_model(linear_model(2.0, 1.0, sigmoid=False), threads=1)
    with pytest.raises(Invalid, match="cannot score"):
        score(model, {"other": np.zeros(2, np.float32)})
    with pytest.raises(Invalid, match="number of rows"):
        score(model, {"distance": np.zeros(2, np.float32), "carrier": np.array(["a"], dtype=object)})
