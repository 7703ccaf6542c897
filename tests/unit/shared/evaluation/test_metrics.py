"""Metrics against scikit-learn and by hand, and what they say about nothing."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.evaluation import (
    PROBABILITY_CLIP,
    auc,
    evaluate,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
    prediction_bias,
    reliability,
    rmse,
    squared_error_rows,
)


def a_binary_set(seed: int, rows: int = 500, decimals: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(2, 5, rows), decimals)
    return (rng.random(rows) < scores).astype(float), scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [9, 2, 1])  # 1: almost every score is tied
def test_agrees_with_scikit_learn(seed: int, decimals: int) -> None:
    labels, scores = a_binary_set(seed, decimals=decimals)
    clipped = np.clip(scores, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    assert log_loss(labels, scores) == pytest.approx(sklearn.metrics.log_loss(labels, clipped), rel=1e-12)
    assert auc(labels, scores) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), rel=1e-12)
    assert rmse(labels, scores) == pytest.approx(sklearn.metrics.root_mean_squared_error(labels, scores), rel=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
@settings(max_examples=200, deadline=None)
def test_auc_is_the_share_of_pairs_ranked_right(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    if not len(positives) or not len(negatives):
        assert auc(labels, scores) is None
        return
    difference = positives[:, None] - negatives[None, :]
    assert auc(labels, scores) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean(), rel=1e-12)


def test_a_sure_and_wrong_answer_costs_a_stated_finite_amount() -> None:
    assert log_loss_rows([1, 0], [0.0, 1.0]) == pytest.approx([-math.log(PROBABILITY_CLIP)] * 2)
    assert log_loss_rows([1, 0], [1.0, 0.0]) == pytest.approx([0, 0], abs=1e-6)


def test_calibration_by_hand() -> None:
    labels, scores = [0, 1, 1, 1], [0.12, 0.18, 0.95, 1.0]
    table = reliability(labels, scores)
    assert [(b.low, b.high, b.rows) for b in table if b.rows] == [(0.1, 0.2, 2), (0.9, 1.0, 2)]
    assert (table[1].mean_prediction, table[1].mean_label) == (pytest.approx(0.15), pytest.approx(0.5))
    assert table[0].mean_prediction is None
    assert expected_calibration_error(labels, scores) == pytest.approx(0.5 * 0.35 + 0.5 * 0.025)


def test_a_calibrated_model_has_hardly_any_calibration_error() -> None:
    labels, scores = a_binary_set(3, rows=200_000)
    assert expected_calibration_error(labels, scores) < 0.01  # type: ignore[operator]
    assert prediction_bias(labels, scores) == pytest.approx(0, abs=0.005)


def test_bias_is_prediction_minus_label() -> None:
    assert prediction_bias([0, 1], [0.9, 0.9]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("labels", "scores"), [([], []), ([1, 0], [math.nan, 0.5]), ([1, 0], [math.inf, 0.5]), ([math.nan, 0], [0.5, 0.5])]
)
def test_what_is_not_defined_is_none(labels: list[float], scores: list[float]) -> None:
    assert log_loss(labels, scores) is None or math.inf in scores  # an infinite score is clipped like any above 1
    assert rmse(labels, scores) is None
    assert prediction_bias(labels, scores) is None
    assert auc(labels, scores) is None
    assert expected_calibration_error(labels, scores) is None
    assert reliability(labels, scores) == []


def test_one_class_has_no_auc() -> None:
    assert auc([1, 1], [0.2, 0.3]) is None
    assert auc([0, 0], [0.2, 0.3]) is None


def test_a_squared_error_that_overflows_is_undefined_not_a_warning() -> None:
    assert squared_error_rows([0.0], [1e200])[0] == math.inf
    assert rmse([0.0], [1e200]) is None


def test_evaluate_gives_each_task_its_own_metrics() -> None:
    labels, scores = a_binary_set(1)
    binary, regression = evaluate("binary", labels, scores), evaluate("regression", labels, scores)
    assert (binary.rows, binary.loss, binary.rmse) == (500, binary.log_loss, None)
    assert binary.auc is not None
    assert binary.calibration_error is not None
    assert (regression.log_loss, regression.auc, regression.calibration_error) == (None, None, None)
    assert regression.rmse == pytest.approx(math.sqrt(regression.loss))  # type: ignore[arg-type]
    assert evaluate("binary", [], []).as_json()["loss"] is None


@pytest.mark.parametrize(("labels", "scores"), [([1, 0], [0.5]), ([[1]], [[0.5]])])
def test_shapes_must_agree(labels: list, scores: list) -> None:
    with pytest.raises(ValueError, match=r"must both be \[n\]"):
        log_loss(labels, scores)
