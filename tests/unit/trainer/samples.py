"""A small pipeline with every kind of feature, and tables for it."""

from typing import Any

import numpy as np
import pyarrow as pa

from shared.spec import PipelineSpec, parse

START_US = 1_700_000_000_000_000
FEATURES: dict[str, Any] = {
    "city": {"type": "category", "vocabulary": 3, "oov_buckets": 2},
    "kind": {"type": "category", "vocabulary": 10},
    "size": {"type": "number", "transform": "quantile"},
    "price": {"type": "number", "transform": "log1p", "scale": "minmax"},
    "at": {
        "type": "timestamp",
        "calendar": ["minute_of_day", "hour", "weekday", "day", "month"],
        "timezone": "Europe/Paris",
    },
    "both": {"type": "cross", "of": ["city", "kind"], "buckets": 64},
    "embedding": {"type": "vector", "length": 3},
}


def sample_spec(features: dict[str, Any] | None = None, **changes: Any) -> PipelineSpec:
    document: dict[str, Any] = {
        "name": "sample",
        "task": "binary",
        "key": "id",
        "time": "at",
        "features": FEATURES if features is None else features,
        "label": {"name": "hit"},
        "network": {"hidden": [16, 8], "embedding": 4},
        "training": {"epochs": 3, "batch_size": 128, "learning_rate": 0.01},
    }
    return parse({**document, **changes})


def sample_columns(rows: int, seed: int = 0) -> dict[str, Any]:
    """Columns whose label depends on all of them; a tenth of the sizes and cities are missing."""
    rng = np.random.default_rng(seed)
    cities = rng.choice(["Rome", "Oslo", "Bern", "Kyiv", "Lodz", "Nice"], rows, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    kinds = rng.choice(["a", "b", "c"], rows)
    size = rng.gamma(2.0, 3.0, rows)
    vectors = rng.normal(size=(rows, 3))
    at = START_US + np.sort(rng.integers(0, 90 * 86_400_000_000, rows))
    logit = (cities == "Rome") * 1.5 + (kinds == "a") - 0.3 * size + vectors[:, 0] + rng.normal(size=rows)
    return {
        "key": [f"row-{index}" for index in range(rows)],
        "time": pa.array(at, pa.timestamp("us", tz="UTC")),
        "city": [None if missing else str(city) for city, missing in zip(cities, rng.random(rows) < 0.1, strict=True)],
        "kind": kinds.tolist(),
        "size": pa.array(size, mask=rng.random(rows) < 0.1),
        "price": rng.lognormal(3, 2, rows),
        "at": pa.array(at, pa.timestamp("us", tz="UTC")),
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float64())),
        "label": (logit > 0).astype(np.float64),
    }


def sample_table(rows: int, seed: int = 0, **changes: Any) -> pa.Table:
    return pa.table({**sample_columns(rows, seed), **changes})
