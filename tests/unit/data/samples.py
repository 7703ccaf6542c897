"""A small pipeline with a field of every kind, and rows for it."""

from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2024, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "name": "trips",
    "task": "binary",
    "key": "trip",
    "entity": "rider",
    "columns": ["city"],
    "time": "began",
    "features": {
        "carrier": {"type": "category", "vocabulary": 8},
        "distance": {"type": "number"},
        "booked": {"type": "timestamp", "calendar": ["hour"]},
        "began": {"type": "timestamp", "calendar": ["weekday"]},
        "embedding": {"type": "vector", "length": 2},
    },
    "label": {"name": "late", "mature_after": "1d"},
    "dataset": {"window": "20d", "test": "5d", "gap": "1d"},
}


def at(day: float) -> datetime:
    """So many days after the start."""
    return START + timedelta(days=day)


def iso(day: float) -> str:
    """As text."""
    return at(day).isoformat()


def event(number: int, day: float, **fields: Any) -> dict[str, Any]:
    """One event that was known when it happened."""
    return {
        "trip": f"t{number:04d}",
        "began": iso(day),
        "booked": iso(day - 1),
        "carrier": f"c{number % 3}",
        "distance": number / 4,
        "embedding": [number, 0.5],
        "rider": f"r{number % 5}",
        "city": "Oslo",
        "available_at": iso(day),
        **fields,
    }


def labelled(number: int, day: float, **fields: Any) -> dict[str, Any]:
    """One event whose label was known half a day later."""
    return event(number, day, late=number % 2, label_time=iso(day + 0.5), **fields)


def labelled_month() -> list[dict[str, Any]]:
    """Four labelled events a day for 30 days."""
    return [labelled(number, number / 4) for number in range(120)]
