"""The card says what matters, and nothing that people sent can break its page."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.card import card
from services.data.statistics import split_statistics
from shared.registry.states import DatasetState
from shared.registry.tables import Dataset
from shared.spec import parse
from tests.unit.data.samples import SPEC, at

SPEC_READ = parse(SPEC)


@pytest.fixture
def ready(tmp_path: Path) -> Dataset:
    """A dataset whose only category value is an attack."""
    path = tmp_path / "split.parquet"
    pq.write_table(
        pa.table(
            {
                "key": ["a", "b"],
                "time": pa.array([at(1), at(2)], pa.timestamp("us", "UTC")),
                "carrier": ["<script>|alert(1)|</script>\n# x", None],
                "distance": [1.5, 2.5],
                "label": [0.0, 1.0],
            }
        ),
        path,
    )
    statistics = {"train": split_statistics(path), "test": split_statistics(path)}
    return Dataset(
        number=3, spec_version=2, state=DatasetState.READY, as_of=at(30), digest="ab" * 32, statistics=statistics,
        event_watermark=1234, label_watermark=5, prediction_watermark=0, train_start=at(0), train_end=at(20),
        test_start=at(21), test_end=at(29), train_rows=2, test_rows=2,
    )  # fmt: skip


def test_a_ready_dataset_is_described(ready: Dataset) -> None:
    page = card(ready, SPEC_READ)

    assert page.startswith("# trips, dataset 3\n")
    for fact in (
        "ab" * 32,
        "| train | 2024-01-01 00:00 UTC | 2024-01-21 00:00 UTC | 2 | 0.5 |",
        "1,234",
        "mature_after: 1d",
    ):
        assert fact in page
    assert page.index("`carrier`") < page.index("`distance`") < page.index("`label`")
    assert "1 (50.0%)" in page


def test_values_cannot_break_the_page(ready: Dataset) -> None:
    page = card(ready, SPEC_READ)
    assert "<script>" not in page
    row = next(line for line in page.splitlines() if line.startswith("| `carrier`"))
    assert row.replace("\\|", "").count("|") == 10


def test_one_that_failed_says_why() -> None:
    dataset = Dataset(number=1, spec_version=1, state=DatasetState.FAILED, as_of=at(1), reason="No labelled example.")
    page = card(dataset, SPEC_READ)
    assert "failed: No labelled example." in page
    assert "## Columns" not in page
