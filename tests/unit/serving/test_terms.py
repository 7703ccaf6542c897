"""Headers that say how urgent a request is and how long its answer is of use; and how often a key may ask."""

import random

import pytest

from services.serving.admission import Priority
from services.serving.config import ServingSettings
from services.serving.errors import KeyTooFast
from services.serving.terms import MOST_KEYS, KeyRates, Terms
from shared.errors import Forbidden, Invalid
from shared.keys import Principal

SHOP = Principal("bbbbbbbbbbbb", "shop", frozenset({"predict"}))
URGENT = Principal("cccccccccccc", "urgent", frozenset({"predict", "predict:priority"}))


def test_without_headers_the_settings_hold() -> None:
    assert Terms(ServingSettings(timeout_ms=250)).of({}, SHOP, 10.0) == (Priority.NORMAL, 10.25)


def test_headers_say_otherwise() -> None:
    terms = Terms(ServingSettings())
    assert terms.of({b"x-relevo-timeout-ms": b"1500", b"x-relevo-priority": b"low"}, SHOP, 10.0) == (
        Priority.LOW,
        11.5,
    )
    assert terms.of({b"x-relevo-priority": b"high"}, URGENT, 10.0)[0] is Priority.HIGH
    with pytest.raises(Forbidden, match="predict:priority"):
        terms.of({b"x-relevo-priority": b"high"}, SHOP, 10.0)


@pytest.mark.parametrize("given", [b"", b"0", b"-1", b"1.5", b"1e3", b"abc", b"3600001", b"9" * 5000, b"\xb2"])
def test_a_timeout_that_makes_no_sense_is_named(given: bytes) -> None:
    with pytest.raises(Invalid, match="X-Relevo-Timeout-Ms must be a whole number") as error:
        Terms(ServingSettings()).of({b"x-relevo-timeout-ms": given}, SHOP, 0.0)
    assert error.value.errors[0]["loc"] == ["header", "X-Relevo-Timeout-Ms"]


@pytest.mark.parametrize("given", [b"", b"HIGH", b"0", b"urgent"])
def test_a_priority_that_there_is_not_is_named(given: bytes) -> None:
    with pytest.raises(Invalid, match="must be high, normal or low"):
        Terms(ServingSettings()).of({b"x-relevo-priority": given}, URGENT, 0.0)


def test_a_key_gets_its_burst_and_its_rate_and_no_more() -> None:
    rates, draw = KeyRates(10, 5), random.Random(7)
    assert [rates.take("one", 0.0) for _ in range(5)] == [0.0] * 5
    assert rates.take("one", 0.0) == pytest.approx(0.1)
    assert rates.take("other", 0.0) == 0.0, "keys do not share"
    assert rates.take("one", 0.1) == 0.0
    assert rates.take("one", 0.1) > 0
    now_s, let_in = 1000.0, 0
    for _ in range(20_000):
        now_s += draw.expovariate(200)
        let_in += rates.take("one", now_s) == 0
    assert let_in == pytest.approx(5 + 10 * (now_s - 1000), abs=2)


def test_numbers_of_keys_that_ask_no_more_are_dropped() -> None:
    rates = KeyRates(10, 5)
    for number in range(3 * MOST_KEYS):
        assert rates.take(f"key-{number}", number / 10) == 0
    assert len(rates._full_at_s) <= MOST_KEYS


def test_a_request_that_is_asked_about_twice_counts_once() -> None:
    terms = Terms(ServingSettings(key_rate=1, key_burst=1))
    for _ in range(3):
        terms.of({}, SHOP, 0.0)
        terms.undo(SHOP)
    terms.of({}, SHOP, 0.0)
    with pytest.raises(KeyTooFast) as error:
        terms.of({}, SHOP, 0.5)
    assert (error.value.status, error.value.retry_after_s) == (429, 1)
