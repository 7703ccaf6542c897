"""The row of one day, by hand."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from services.validator.monitoring import Predictions, quality_by_day
from services.validator.watch import with_silence
from shared.spec import parse

NAN = float("nan")


def predictions(**columns: list) -> Predictions:
    count = len(columns["score"])
    return Predictions(
        day=np.array(columns.get("day", ["2013-03-01"] * count), dtype="datetime64[D]"),
        event_s=np.array([time.timestamp() for time in columns.get("times", [])]),
        score=np.array(columns["score"], dtype=float),
        label=np.array(columns.get("label", [NAN] * count), dtype=float),
        version=np.array(columns.get("version", [1] * count)),
        train_label_mean=np.array(columns.get("mean", [0.25] * count), dtype=float),
        age_s=np.array(columns.get("age", [60.0] * count), dtype=float),
    )


def test_days_are_apart_and_in_order() -> None:
    got = quality_by_day(predictions(score=[0.2, 0.4, 0.6], day=["2013-03-02", "2013-03-01", "2013-03-02"]), "binary")
    assert [(d.day, d.predictions) for d in got] == [(date(2013, 3, 1), 1), (date(2013, 3, 2), 2)]
    assert got[1].mean_prediction == pytest.approx(0.4)


def test_each_answer_is_measured_against_its_own_models_training_set() -> None:
    (day,) = quality_by_day(predictions(score=[0.3, 0.5], version=[2, 1], mean=[0.2, 0.5], age=[10, 30]), "binary")
    assert day.bias == pytest.approx(0.05)
    assert day.versions == [1, 2]
    assert day.model_age_s == 20


def test_quality_comes_from_labelled_rows_alone() -> None:
    (day,) = quality_by_day(predictions(score=[0.9, 0.1, 0.4], label=[1, 0, NAN]), "binary")
    assert (day.predictions, day.labelled, day.mean_label, day.auc) == (3, 2, 0.5, 1.0)
    assert day.label_bias == pytest.approx(0.0)
    assert day.loss == pytest.approx(-np.log(0.9))


def test_one_class_has_no_auc_and_no_label_no_quality() -> None:
    (day,) = quality_by_day(predictions(score=[0.9], label=[1]), "binary")
    assert (day.auc, day.labelled) == (None, 1)
    (day,) = quality_by_day(predictions(score=[0.9]), "binary")
    assert (day.mean_label, day.label_bias, day.loss, day.auc) == (None, None, None, None)


def test_regression_reports_rmse() -> None:
    (day,) = quality_by_day(predictions(score=[10, 20], label=[13, 16]), "regression")
    assert day.loss == pytest.approx(12.5**0.5)
    assert day.auc is None


def test_nothing_gives_nothing() -> None:
    assert quality_by_day(predictions(score=[]), "binary") == []


@pytest.mark.parametrize(("if_missing", "labels"), [("drop", [NAN, NAN, 1.0]), ("negative", [0.0, NAN, 1.0])])
def test_silence_counts_only_where_the_spec_says_so_and_only_once_mature(if_missing: str, labels: list[float]) -> None:
    spec = parse(
        {
            "name": "clicks",
            "task": "binary",
            "key": "id",
            "time": "at",
            "features": {"x": {"type": "number"}},
            "label": {"name": "clicked", "if_missing": if_missing, "mature_after": "1d"},
        }
    )
    now = datetime(2013, 3, 10, tzinfo=UTC)
    times = [now - timedelta(days=1), now - timedelta(hours=23), now - timedelta(days=5)]
    got = with_silence(predictions(score=[0.1, 0.2, 0.3], label=[NAN, NAN, 1.0], times=times), spec, as_of=now)
    np.testing.assert_array_equal(got.label, labels)
