"""Write two months of made-up hourly bike rentals as NDJSON: python examples/make_bikes.py > bikes.ndjson (no dependencies)."""

import json
import math
import random
import sys
from datetime import UTC, datetime, timedelta

STATIONS = {"harbour": "old-town", "museum": "old-town", "campus": "north", "stadium": "north", "lake": "south"}
DAYS = 60


def main() -> None:
    """One event for each station and hour that has passed, with the number of bikes taken as its label."""
    draw = random.Random(7)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for step in range(DAYS * 24, 1, -1):
        hour = now - timedelta(hours=step)
        temperature = 12 + 8 * math.sin(2 * math.pi * (hour.hour - 9) / 24) + draw.gauss(0, 3)
        rain = max(0.0, draw.gauss(-1, 1.5))
        rush = 6 * math.exp(-((hour.hour - 7) ** 2) / 4) + 7 * math.exp(-((hour.hour - 16) ** 2) / 6)
        for rank, (station, district) in enumerate(STATIONS.items()):
            mean = (2 + rush * (hour.weekday() < 5) + 0.3 * temperature) * (1 - 0.15 * rank) / (1 + rain)
            event = {
                "id": f"{station}-{hour:%Y%m%d%H}",
                "hour": hour.isoformat(),
                "station": station,
                "district": district,
                "temperature": round(temperature, 1) if draw.random() > 0.02 else None,
                "rain_mm": round(rain, 2),
                "taken": max(0, round(draw.gauss(mean, 1.5))),
                # When the features were known, and when the label was: the hour had to pass first.
                "available_at": hour.isoformat(),
                "label_time": (hour + timedelta(hours=1)).isoformat(),
            }
            sys.stdout.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()
