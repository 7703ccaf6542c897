"""Flights as the APIs take them: instances for /predict, Parquet for events, rows for labels and feedback. Pure."""

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cli.demo.errors import DemoFailed
from shared.spec import PipelineSpec

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T")


def flight_fields(spec: PipelineSpec, columns: Sequence[str]) -> list[str]:
    """The columns of the flights that the pipeline takes in an instance or event, `available_at` aside.

    Raises:
        DemoFailed: the pipeline needs a field that no column gives.
    """
    wanted = [name for name in spec.instance_fields if name != "available_at"]
    missing = [name for name in [*wanted, spec.label.name] if name not in columns]
    if missing:
        raise DemoFailed(
            f"The pipeline {spec.name} needs {', '.join(missing)}, which the flights do not have. "
            f"They have: {', '.join(columns)}."
        )
    return wanted


def instances(flights: "pd.DataFrame", names: Sequence[str], time: str) -> list[dict[str, Any]]:
    """One JSON object per flight with the fields that are not missing; known in the world at the event itself."""
    columns = {name: _json_values(flights[name]) for name in names}
    columns["available_at"] = columns[time]
    return [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    ]


def events_parquet(flights: "pd.DataFrame", names: Sequence[str], time: str) -> bytes:
    """The same rows as one Parquet file, missing values as nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _arrow(flights[name]) for name in names}
    table = pa.table({**columns, "available_at": columns[time]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def labels(flights: "pd.DataFrame", key: str, label: str) -> list[dict[str, Any]]:
    """One label row for each flight whose outcome is known, dated to when it became known."""
    known = flights[flights[label].notna()]
    moments = _json_values(known["known_at"])
    return [
        {"key": flight, "label": value, "time": moment, "available_at": moment, "source": "explicit"}
        for flight, value, moment in zip(known[key], known[label].tolist(), moments, strict=True)
    ]


def feedback(prediction_id: str, label: float, known_at: datetime) -> dict[str, Any]:
    """The truth about one answered prediction."""
    moment = known_at.isoformat().replace("+00:00", "Z")
    return {
        "prediction_id": prediction_id,
        "label": label,
        "time": moment,
        "available_at": moment,
        "source": "explicit",
    }


def batches(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `size` rows."""
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


def _arrow(column: "pd.Series[Any]") -> Any:
    """A column as an Arrow array; by hand, as pyarrow's own way through pandas warns of moments with a zone."""
    import pyarrow as pa

    if _is_moment(column):
        return pa.array(_utc(column), pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    return pa.array(column.tolist(), from_pandas=True)


def _json_values(column: "pd.Series[Any]") -> list[Any]:
    """Python values of a column: None for missing, moments as ISO 8601 in UTC."""
    if _is_moment(column):
        texts = np.datetime_as_string(_utc(column), unit="s").tolist()
        return [None if text == "NaT" else text + "Z" for text in texts]
    return [None if value is None or value != value else value for value in column.tolist()]  # noqa: PLR0124  (NaN)


def _is_moment(column: "pd.Series[Any]") -> bool:
    return str(column.dtype).startswith("datetime64")


def _utc(column: "pd.Series[Any]") -> Any:
    """Moments as datetime64 [n] in UTC."""
    return column.dt.tz_convert(None).to_numpy()
