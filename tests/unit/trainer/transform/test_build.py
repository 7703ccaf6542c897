"""The whole transform against an independent reference in Python, row by row."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import mmh3
import numpy as np
import pytest

from services.trainer.transform import Transform, feeds_of, fit_transform
from services.trainer.transform.build import CHUNK_ROWS
from tests.unit.trainer.samples import FEATURES, START_US, sample_spec, sample_table

Rows = dict[str, np.ndarray]


def fitted(features: dict[str, Any], rows: int = 2_000) -> tuple[Transform, Rows, Rows]:
    """The transform, what it was fitted on, and other rows with values that the fit never saw."""
    spec = sample_spec(features)
    train, other = (feeds_of(sample_table(rows, seed), spec) for seed in (1, 2))
    rng = np.random.default_rng(3)
    if "city" in other:
        other["city"][rng.random(rows) < 0.1] = "Riga"
    for name in ("size", "price"):
        if name in other:
            other[name][rng.integers(0, rows, 6)] = [np.inf, -np.inf, 3e38, -3e38, -5, np.nan]
    return fit_transform(train, spec), train, other


def column(transform: Transform, feeds: Rows, name: str) -> np.ndarray:
    numbers, ids = transform(feeds)
    if name in transform.number_names:
        return numbers[:, transform.number_names.index(name)]
    return ids[:, transform.id_names.index(name)]


def partition(ids: np.ndarray, keys: list[Any]) -> None:
    """Ids and reference keys must name the same groups, whatever the numbers."""
    pairs = set(zip(ids.tolist(), keys, strict=True))
    assert len({one for one, _ in pairs}) == len(pairs) == len({other for _, other in pairs})


def test_a_standard_scaled_number_with_its_missing_flag() -> None:
    transform, train, other = fitted({"size": FEATURES["size"], "at": FEATURES["at"]})
    given = train["size"][~np.isnan(train["size"])].astype(np.float64)
    filled = np.where(np.isnan(train["size"]), np.median(given), train["size"])
    low, high = ((bound - filled.mean()) / filled.std() for bound in (filled.min(), filled.max()))
    wanted = (np.where(np.isnan(other["size"]), np.median(given), other["size"]) - filled.mean()) / filled.std()
    np.testing.assert_allclose(column(transform, other, "size"), np.clip(wanted, low, min(high, 10)), atol=1e-5)
    np.testing.assert_array_equal(column(transform, other, "size.missing"), np.isnan(other["size"]))


def test_a_quantile_is_the_share_of_train_rows_below() -> None:
    transform, train, other = fitted({"size": FEATURES["size"], "at": FEATURES["at"]})
    given = np.sort(train["size"][~np.isnan(train["size"])])
    rows = np.isfinite(other["size"])
    share = np.searchsorted(given, other["size"][rows]) / len(given)
    np.testing.assert_allclose(column(transform, other, "size.quantile")[rows], share, atol=0.02)
    np.testing.assert_array_equal(column(transform, other, "size.quantile")[np.isposinf(other["size"])], 1)


def test_a_log_with_its_sign_scaled_to_the_train_range() -> None:
    transform, train, other = fitted({"price": FEATURES["price"], "at": FEATURES["at"]})
    low, high = (math.log1p(float(bound)) for bound in (train["price"].min(), train["price"].max()))
    for value, found in zip(other["price"].tolist(), column(transform, other, "price"), strict=True):
        filled = float(np.median(train["price"])) if math.isnan(value) else value
        log = math.copysign(math.log1p(abs(filled)), filled)
        assert found == pytest.approx(min(max((log - low) / (high - low), 0), 1), abs=1e-5)


def test_known_categories_have_ids_of_their_own_and_the_rest_share_buckets() -> None:
    transform, train, other = fitted({"city": FEATURES["city"], "at": FEATURES["at"]})
    counts = Counter(city for city in train["city"] if city)
    kept = {city for city, _ in counts.most_common(3)}
    seen_buckets = {mmh3.hash(city, signed=False) % 2 for city in counts if city not in kept}

    def group(city: str) -> str:
        if not city or city in kept:
            return city
        bucket = mmh3.hash(city, signed=False) % 2
        return f"bucket {bucket}" if bucket in seen_buckets else "unseen"

    ids = column(transform, other, "city")
    partition(ids, [group(city) for city in other["city"]])
    assert ids.max() < transform.id_sizes[0]


def test_a_cross_is_the_hash_of_both_texts() -> None:
    transform, train, other = fitted(FEATURES)

    def bucket(city: str, kind: str) -> int:
        return mmh3.hash(f"{mmh3.hash(city, signed=False)}:{kind}", signed=False) % 64

    seen = {bucket(city, kind) for city, kind in zip(train["city"], train["kind"], strict=True)}
    keys = [bucket(city, kind) for city, kind in zip(other["city"], other["kind"], strict=True)]
    partition(column(transform, other, "both"), [key if key in seen else "unseen" for key in keys])


def test_calendar_parts_are_local_and_unseen_ones_share_id_zero() -> None:
    transform, train, other = fitted(FEATURES)
    zone, epoch = ZoneInfo("Europe/Paris"), datetime(1970, 1, 1, tzinfo=UTC)

    def local(micros: int) -> datetime:
        return (epoch + timedelta(microseconds=micros)).astimezone(zone)

    seen = {local(micros).month for micros in train["at"].tolist()}
    rng = np.random.default_rng(5)
    other["at"] = rng.integers(0, 2 * START_US, len(other["at"]))
    moments = [local(micros) for micros in other["at"].tolist()]
    partition(column(transform, other, "at.month"), [m.month if m.month in seen else 0 for m in moments])
    unseen = np.array([m.month not in seen for m in moments])
    assert (column(transform, other, "at.month")[unseen] == 0).all()
    minutes = np.array([m.hour * 60 + m.minute for m in moments])
    np.testing.assert_allclose(
        column(transform, other, "at.minute_of_day.sin"), np.sin(minutes / 1440 * 2 * np.pi), atol=1e-6
    )


def test_vectors_are_scaled_by_element() -> None:
    transform, train, other = fitted(FEATURES)
    wanted = (other["embedding"] - train["embedding"].mean(0)) / train["embedding"].std(0)
    low, high = train["embedding"].min(0), train["embedding"].max(0)
    inside = ((other["embedding"] >= low) & (other["embedding"] <= high)).all(1)
    found = np.stack([column(transform, other, f"embedding.{index}") for index in range(3)], 1)
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-5)


def test_every_output_is_finite_and_every_id_in_range_whatever_comes() -> None:
    transform, _, other = fitted(FEATURES)
    other["city"] = np.array(["", "é", "日本", "x" * 5_000, "\x1f", "Rome "] * 400, dtype=object)[: len(other["city"])]
    other["embedding"] = np.where(other["embedding"] > 0, np.float32(np.inf), other["embedding"])
    limits = np.iinfo(np.int64)
    other["at"] = np.random.default_rng(0).integers(limits.min, limits.max, len(other["at"]))
    numbers, ids = transform(other)
    assert numbers.dtype == np.float32
    assert ids.dtype == np.int64
    assert np.isfinite(numbers).all()
    assert (ids >= 0).all()
    assert (ids < np.array(transform.id_sizes)).all()


def test_rare_ids_may_be_taken_together() -> None:
    spec = sample_spec()
    train = feeds_of(sample_table(500, 1), spec)
    train["kind"][:3] = "rare"
    together = fit_transform(train, spec, min_count=4)
    assert (column(together, train, "kind")[:3] == 0).all()
    assert (column(fit_transform(train, spec), train, "kind")[:3] > 0).all()


def test_chunks_do_not_show() -> None:
    spec = sample_spec({"city": FEATURES["city"], "size": FEATURES["size"], "at": FEATURES["at"]})
    feeds = feeds_of(sample_table(CHUNK_ROWS + 10, 1), spec)
    transform = fit_transform(feeds, spec)
    numbers, ids = transform(feeds)
    tail = transform({name: values[-20:] for name, values in feeds.items()})
    np.testing.assert_allclose(numbers[-20:], tail[0], atol=1e-6)
    np.testing.assert_array_equal(ids[-20:], tail[1])


def test_a_hundred_thousand_categories() -> None:
    spec = sample_spec({"city": {"type": "category", "vocabulary": 100_000}, "at": FEATURES["at"]})
    feeds = feeds_of(sample_table(120_000), sample_spec({"at": FEATURES["at"]}))
    feeds["city"] = np.array([f"value {index}" for index in range(120_000)], dtype=object)
    transform = fit_transform(feeds, spec)
    ids = column(transform, feeds, "city")
    assert len(np.unique(ids)) == 100_001


@pytest.mark.parametrize("names", [["size"], ["city"], ["embedding"]])
def test_a_pipeline_of_one_kind_has_an_empty_side(names: list[str]) -> None:
    features = {name: FEATURES[name] for name in names}
    transform, _, other = fitted(features, rows=60)
    numbers, ids = transform(other)
    assert numbers.shape == (60, len(transform.number_names))
    assert ids.shape == (60, len(transform.id_names))


def test_no_rows_give_no_rows() -> None:
    transform, _, other = fitted(FEATURES, rows=60)
    numbers, ids = transform({name: values[:0] for name, values in other.items()})
    assert (len(numbers), len(ids)) == (0, 0)
