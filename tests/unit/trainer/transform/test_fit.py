"""Statistics against plain NumPy, and columns that have nothing to tell."""

import numpy as np
import pytest

from services.trainer.transform.fit import MAX_SCALED, fit_category, fit_number, fit_quantiles
from shared.spec import CategoryFeature, NumberFeature


def number(**settings: object) -> NumberFeature:
    return NumberFeature.model_validate({"type": "number", **settings})


def category(vocabulary: int) -> CategoryFeature:
    return CategoryFeature(type="category", vocabulary=vocabulary)


def test_standard_scaling_counts_the_filled_rows() -> None:
    values = np.array([1, 2, np.nan, 9], np.float32)
    fitted = fit_number(values, number())
    filled = np.array([1, 2, 2, 9.0])
    assert fitted.fill == 2
    assert fitted.has_missing
    assert fitted.scaling.center == pytest.approx(filled.mean())
    assert fitted.scaling.factor == pytest.approx(1 / filled.std())
    assert fitted.scaling.low == pytest.approx((1 - filled.mean()) / filled.std())


@pytest.mark.parametrize(("impute", "fill"), [("median", 2.0), ("mean", 4.0), ("zero", 0.0)])
def test_what_stands_in_for_a_missing_number(impute: str, fill: float) -> None:
    assert fit_number(np.array([1, 2, 9, np.nan], np.float32), number(impute=impute)).fill == fill


@pytest.mark.parametrize("transform", ["none", "log1p", "quantile"])
@pytest.mark.parametrize("scale", ["standard", "minmax", "none"])
@pytest.mark.parametrize(
    "values", [[np.nan] * 4, [3.0] * 4, [np.inf, -np.inf, np.nan, 0], [3e38, -3e38, 1, 2], [1e-42, 2e-42, 3e-42, 0]]
)
def test_nothing_fitted_is_nan_or_infinite(transform: str, scale: str, values: list[float]) -> None:
    fitted = fit_number(np.array(values, np.float32), number(transform=transform, scale=scale))
    parts = [fitted.fill, fitted.scaling.center, fitted.scaling.factor, fitted.scaling.low, fitted.scaling.high]
    if fitted.quantiles is not None:
        parts += [fitted.quantiles.start, fitted.quantiles.slope, fitted.quantiles.rise]
    assert all(np.isfinite(part).all() for part in parts)


def test_an_outlier_does_not_swamp_the_network() -> None:
    values = np.array([0.0, 1.0] * 5_000 + [1e9], np.float32)
    assert fit_number(values, number()).scaling.high == MAX_SCALED


def test_quantiles_rise_from_zero_to_one() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, 5_000)
    fitted = fit_quantiles(values)
    assert fitted is not None
    assert fitted.rise.sum() == pytest.approx(1, abs=1e-6)
    assert (fitted.rise > 0).all()


def test_a_column_that_is_mostly_one_value_keeps_few_quantiles() -> None:
    fitted = fit_quantiles(np.array([0.0] * 900 + list(range(1, 101)), np.float64))
    assert fitted is not None
    assert len(fitted.start) < 10


@pytest.mark.parametrize("values", [[], [4.0], [4.0] * 50])
def test_values_that_do_not_vary_have_no_quantiles(values: list[float]) -> None:
    assert fit_quantiles(np.array(values)) is None


def test_the_vocabulary_is_the_most_frequent_and_ties_go_by_text() -> None:
    values = np.array(["b", "a", "c", "c", "", "", "", "d"], dtype=object)
    assert fit_category(values, category(3)).vocabulary == ("c", "a", "b")
    assert fit_category(values[::-1], category(3)).vocabulary == ("c", "a", "b")


def test_only_missing_values_leave_an_empty_vocabulary() -> None:
    assert fit_category(np.array(["", ""], dtype=object), category(3)).vocabulary == ()
