"""Flights on the wire: only the pipeline's fields, missing values left out, known in the world when they happened."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import cli
from cli.demo.errors import DemoFailed
from cli.demo.rows import batches, events_parquet, feedback, flight_fields, instances, labels
from cli.flights import COLUMNS
from shared.spec import PipelineSpec, load_yaml, parse


def _spec(**features: dict[str, object]) -> PipelineSpec:
    return parse(
        {
            "name": "flights",
            "task": "binary",
            "key": "flight_id",
            "entity": "tailnum",
            "columns": ["tailnum"],
            "time": "scheduled_departure",
            "features": {
                "carrier": {"type": "category", "vocabulary": 8},
                "temp": {"type": "number"},
                "scheduled_departure": {"type": "timestamp", "calendar": ["hour"]},
                **features,
            },
            "label": {"name": "late"},
        }
    )


def _flights() -> pd.DataFrame:
    departure = pd.to_datetime(["2013-03-01T10:15:00Z", "2013-03-01T11:00:00Z"]).astype("datetime64[us, UTC]")
    return pd.DataFrame(
        {
            "flight_id": ["a", "b"],
            "scheduled_departure": departure,
            "carrier": ["UA", "AA"],
            "tailnum": np.array(["N1", None], dtype=object),
            "temp": [39.5, np.nan],
            "late": [1.0, np.nan],
            "known_at": pd.to_datetime(["2013-03-01T14:30:00Z", None]).astype("datetime64[us, UTC]"),
        }
    )


def test_instances_carry_the_fields_of_the_pipeline_and_leave_out_what_is_missing() -> None:
    flights = _flights()
    names = flight_fields(_spec(), list(flights.columns))
    assert instances(flights, names, "scheduled_departure") == [
        {
            "flight_id": "a",
            "scheduled_departure": "2013-03-01T10:15:00Z",
            "carrier": "UA",
            "temp": 39.5,
            "tailnum": "N1",
            "available_at": "2013-03-01T10:15:00Z",
        },
        {
            "flight_id": "b",
            "scheduled_departure": "2013-03-01T11:00:00Z",
            "carrier": "AA",
            "available_at": "2013-03-01T11:00:00Z",
        },
    ]


def test_events_are_the_same_rows_as_parquet() -> None:
    flights = _flights()
    names = flight_fields(_spec(), list(flights.columns))
    table = pq.read_table(io.BytesIO(events_parquet(flights, names, "scheduled_departure")))
    assert set(table.column_names) == {*names, "available_at"}
    assert "late" not in table.column_names
    assert table["temp"].to_pylist() == [39.5, None]
    assert table["tailnum"].to_pylist() == ["N1", None]
    assert table["available_at"].equals(table["scheduled_departure"])


def test_only_flights_with_an_outcome_have_a_label_known_when_it_was_known() -> None:
    moment = "2013-03-01T14:30:00Z"
    assert labels(_flights(), "flight_id", "late") == [
        {"key": "a", "label": 1.0, "time": moment, "available_at": moment, "source": "explicit"}
    ]


def test_feedback_is_dated_like_a_label() -> None:
    item = feedback("id", 0.0, _flights()["known_at"][0])
    assert (item["time"], item["available_at"]) == ("2013-03-01T14:30:00Z",) * 2


def test_a_pipeline_that_needs_more_than_the_flights_have_is_refused_by_field() -> None:
    with pytest.raises(DemoFailed, match="needs fuel, which the flights do not have"):
        flight_fields(_spec(fuel={"type": "number"}), list(_flights().columns))


def test_the_flagship_pipeline_asks_only_for_what_is_known_before_departure() -> None:
    file = Path(cli.__file__).parents[1] / "pipelines" / "flights.yaml"
    spec = parse(load_yaml(file.read_bytes()))
    names = flight_fields(spec, COLUMNS)
    assert not {"late", "arr_delay", "known_at", "dep_time", "dep_delay", "arr_time", "air_time"} & set(names)


def test_batches_lose_nothing() -> None:
    assert [list(batch) for batch in batches([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert list(batches([], 2)) == []
