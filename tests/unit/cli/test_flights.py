"""The flights frame: sorted, unique, labelled only where the truth exists, and blind to what departure hides."""

from functools import cache

import pandas as pd
import pytest

from cli.flights import COLUMNS, TAXI_MIN, WEATHER, load_flights


@cache
def _year() -> pd.DataFrame:
    return load_flights()


def test_the_whole_year_is_there_in_event_time() -> None:
    flights = _year()
    assert len(flights) == 336_776
    assert tuple(flights.columns) == COLUMNS
    assert flights["flight_id"].is_unique
    assert flights[["scheduled_departure", "flight_id"]].equals(
        flights[["scheduled_departure", "flight_id"]].sort_values(["scheduled_departure", "flight_id"])
    )
    assert str(flights["scheduled_departure"].dtype) == "datetime64[us, UTC]"
    assert str(flights["known_at"].dtype) == "datetime64[us, UTC]"


def test_a_known_flight_reads_as_recorded() -> None:
    flight = _year().set_index("flight_id").loc["2013-01-01-UA-1545-EWR"]
    assert flight["scheduled_departure"] == pd.Timestamp("2013-01-01T10:15:00Z")
    assert (flight["dest"], flight["tailnum"], flight["distance"]) == ("IAH", "N14228", 1400.0)
    assert (flight["arr_delay"], flight["late"]) == (11.0, 0.0)
    # Two minutes late out of the gate, 227 minutes in the air, then the allowance for taxiing.
    assert flight["known_at"] == pd.Timestamp("2013-01-01T10:15:00Z") + pd.Timedelta(minutes=2 + 227 + TAXI_MIN)
    assert flight["temp"] == 39.02


def test_cancelled_and_diverted_flights_have_no_outcome() -> None:
    flights = _year()
    unknown = flights["arr_delay"].isna()
    assert unknown.sum() == 9_430
    assert flights.loc[unknown, "late"].isna().all()
    assert flights.loc[unknown, "known_at"].isna().all()
    assert set(flights.loc[~unknown, "late"]) == {0.0, 1.0}
    assert flights.loc[~unknown, "known_at"].notna().all()
    # The shares that the literature on this data set knows: a quiet September, a hard December.
    late = flights.groupby(flights["scheduled_departure"].dt.month)["late"].mean()
    assert late[9] == pytest.approx(0.13, abs=0.01)
    assert late[12] == pytest.approx(0.32, abs=0.02)


def test_the_weather_is_never_from_after_departure_nor_stale() -> None:
    flights = _year()
    assert flights["temp"].notna().mean() > 0.99
    # The observations end on the evening of December 30 (local): a day later nothing recent enough is left.
    last_day = flights[flights["scheduled_departure"] > pd.Timestamp("2013-12-31T06:00:00Z")]
    assert len(last_day) > 0
    assert last_day[list(WEATHER)].isna().all(axis=None)


def test_a_missing_tail_number_is_none() -> None:
    missing = [value for value in _year()["tailnum"] if not isinstance(value, str)]
    assert len(missing) == 2_512
    assert set(missing) == {None}


def test_samples_are_stable_nested_and_seeded() -> None:
    small, large = load_flights(0.05), load_flights(0.1)
    assert len(small) == pytest.approx(0.05 * 336_776, rel=0.05)
    assert set(small["flight_id"]) < set(large["flight_id"])
    assert small["flight_id"].tolist() == load_flights(0.05)["flight_id"].tolist()
    assert set(small["flight_id"]) != set(load_flights(0.05, seed=8)["flight_id"])


@pytest.mark.parametrize("sample", [0.0, -0.1, 1.5])
def test_an_impossible_sample_is_refused(sample: float) -> None:
    with pytest.raises(ValueError, match="sample must be above 0"):
        load_flights(sample)
