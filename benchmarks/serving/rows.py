"""The pipeline that is measured, 24 numbers into a network of 128 and 64 units, and made-up rows of it. Reads no clock."""

import json
import math
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

NAME = "serving-bench"
FEATURES = tuple(f"sensor_{number:02d}" for number in range(24))
ROWS = 6_000
PIPELINE: dict[str, Any] = {
    "name": NAME,
    "description": "Two classes by 24 numbers: the model that serving is measured with.",
    "task": "binary",
    "key": "id",
    "time": "at",
    "features": {name: {"type": "number", "scale": "standard"} for name in FEATURES},
    "label": {"name": "positive", "mature_after": "1h"},
    "dataset": {"window": "60d", "test": "7d", "gap": "1h"},
    "network": {"kind": "mlp", "hidden": [128, 64]},
    "training": {"epochs": 2, "batch_size": 512},
    "gate": {"metric": "log_loss", "margin": 0.05},
}


def training_events(end: datetime, *, seed: int = 7) -> Iterator[dict[str, Any]]:
    """`ROWS` labelled events that end an hour before `end` (aware)."""
    draw = random.Random(seed)
    for index in range(ROWS, 0, -1):
        at = end - timedelta(hours=1, minutes=10 * index)
        row = _features(draw)
        chance = 1 / (1 + math.exp(-sum(row[name] for name in FEATURES[:6])))
        yield {
            "id": f"train-{index}",
            "at": at.isoformat(),
            **row,
            "positive": int(draw.random() < chance),
            "available_at": at.isoformat(),
            "label_time": (at + timedelta(minutes=30)).isoformat(),
        }


def request_body(rows: int, *, seed: int = 11) -> bytes:
    """A prediction request of so many rows, each an object by feature name."""
    draw = random.Random(seed)
    instances = [
        {"id": f"row-{index}", "at": 1_780_000_000_000_000 + index, **_features(draw)} for index in range(rows)
    ]
    return json.dumps({"model": NAME, "instances": instances}, separators=(",", ":")).encode()


def _features(draw: random.Random) -> dict[str, float]:
    return {name: round(draw.gauss(0, 1), 4) for name in FEATURES}
