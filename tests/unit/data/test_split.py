"""Windows by time."""

from datetime import UTC, datetime, timedelta

import pytest

from services.data.split import windows
from shared.spec import parse

AS_OF = datetime(2024, 6, 30, tzinfo=UTC)


def spec(label: dict[str, str], dataset: dict[str, str]) -> dict[str, object]:
    return {
        "name": "trips",
        "task": "binary",
        "key": "trip",
        "time": "began",
        "features": {"distance": {"type": "number"}},
        "label": {"name": "late", **label},
        "dataset": dataset,
    }


@pytest.mark.parametrize(
    ("label", "dataset", "train", "test"),
    [
        ({}, {"window": "10d", "test": "2d"}, (20, 28), (28, 30)),
        ({}, {"window": "10d", "test": "2d", "gap": "1d"}, (20, 27), (28, 30)),
        ({"mature_after": "5d"}, {"window": "10d", "test": "2d", "gap": "1d"}, (15, 22), (23, 25)),
    ],
)
def test_the_newest_mature_part_is_for_testing(
    label: dict[str, str], dataset: dict[str, str], train: tuple[int, int], test: tuple[int, int]
) -> None:
    found = windows(parse(spec(label, dataset)), AS_OF)

    june = datetime(2024, 5, 31, tzinfo=UTC)
    assert (found.train.start, found.train.end) == tuple(june + timedelta(days=day) for day in train)
    assert (found.test.start, found.test.end) == tuple(june + timedelta(days=day) for day in test)


def test_windows_longer_than_history_begin_where_time_begins() -> None:
    found = windows(parse(spec({"mature_after": "999999d"}, {"window": "999999d", "test": "1d"})), AS_OF)

    assert found.train.start == found.test.end == datetime(1900, 1, 1, tzinfo=UTC)
