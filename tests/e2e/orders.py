"""Made-up deliveries, the same for the same seed: what is known when they are ordered, and how late they came."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2024, 3, 4, tzinfo=UTC)
PER_DAY = 60
COURIERS = ("bike", "car", "van")
MATURE_AFTER = timedelta(hours=6)
FEATURES: dict[str, Any] = {
    "courier": {"type": "category", "vocabulary": 4},
    "distance_km": {"type": "number"},
    "ordered_at": {"type": "timestamp", "calendar": ["hour"], "timezone": "Europe/Madrid"},
}


@dataclass(frozen=True)
class Order:
    """One delivery."""

    instance: dict[str, Any]
    minutes_late: float
    known_at: str
    """When it was delivered."""

    @property
    def key(self) -> str:
        """Its id."""
        return str(self.instance["order"])

    @property
    def late(self) -> int:
        """Whether it came more than ten minutes late."""
        return int(self.minutes_late > 10)

    def truth(self, label: float) -> dict[str, Any]:
        """A label row or feedback item, but for what it is about."""
        return {"label": label, "time": self.known_at, "available_at": self.known_at}


def spec(name: str, task: str, label: str, **gate: Any) -> dict[str, Any]:
    """A pipeline over deliveries: twelve days to train on, the newest four to be judged on."""
    return {
        "name": name,
        "task": task,
        "key": "order",
        "time": "ordered_at",
        "columns": ["city"],
        "features": FEATURES,
        "label": {"name": label, "mature_after": "6h"},
        "dataset": {"window": "16d", "test": "4d"},
        "network": {"kind": "mlp", "hidden": [16], "dropout": 0},
        "training": {"epochs": 4, "learning_rate": 0.02},
        "gate": gate,
    }


def moment(day: float) -> str:
    """So many days after the start."""
    return (START + timedelta(days=day)).isoformat()


def as_of(day: int) -> str:
    """The moment at which everything ordered before this day is mature."""
    return (START + timedelta(days=day) + MATURE_AFTER).isoformat()


def orders(first_day: int, days: int) -> list[Order]:
    """`PER_DAY` deliveries on each of some days."""
    return [order for day in range(first_day, first_day + days) for order in _day(day)]


def _day(day: int) -> list[Order]:
    rng = np.random.default_rng(1000 + day)
    made = []
    for number in range(PER_DAY):
        ordered_at = START + timedelta(days=day, hours=8, minutes=12 * number)
        courier = int(rng.integers(len(COURIERS)))
        distance = float(rng.gamma(3, 1.5))
        minutes = 4 * (distance - 4) + (0, 12, 6)[courier] + float(rng.normal(0, 4))
        instance = {
            "order": f"o-{day:03d}-{number:02d}",
            "ordered_at": ordered_at.isoformat(),
            "courier": COURIERS[courier],
            "distance_km": round(distance, 3),
            "city": "Vigo",
            "available_at": ordered_at.isoformat(),
        }
        made.append(Order(instance, round(minutes, 2), (ordered_at + timedelta(hours=1)).isoformat()))
    return made


def events(rows: list[Order], name: str, labels: list[float]) -> list[dict[str, Any]]:
    """The deliveries as events that carry their label under this name."""
    return [{**row.instance, name: label, "label_time": row.known_at} for row, label in zip(rows, labels, strict=True)]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Events as a Parquet file, times as timestamps."""
    table = pa.Table.from_pylist(rows)
    for name in ("ordered_at", "available_at", "label_time"):
        times = [datetime.fromisoformat(text) for text in table[name].to_pylist()]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(times, pa.timestamp("us", tz="UTC")))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def ndjson(rows: list[dict[str, Any]]) -> bytes:
    """Events as one JSON object a line."""
    return b"\n".join(map(orjson.dumps, rows))
