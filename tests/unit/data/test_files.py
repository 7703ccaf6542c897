"""The same rows give the same bytes, in whatever batches they come."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data import files
from services.data.split import Window, Windows
from shared.instances import epoch_us
from shared.spec import parse
from tests.unit.data.samples import SPEC, START, at

SPEC_READ = parse(SPEC)
WINDOWS = Windows(Window(at(0), at(2)), Window(at(3), at(4)))


def rows(count: int = 1000) -> pa.Table:
    """Sorted examples over five days, with nulls."""
    times = [epoch_us(START + timedelta(days=5) * number / count) for number in range(count)]
    return pa.table(
        {
            "key": [f"t{number:05d}" for number in range(count)],
            "time": pa.array(times, pa.int64()),
            "carrier": pa.array([None if number % 7 == 0 else f"é{number % 5}" for number in range(count)]),
            "distance": pa.array([None if number % 3 == 0 else number / 8 for number in range(count)], pa.float64()),
            "booked": pa.array(times, pa.int64()),
            "embedding": pa.array([[number, 0.5] for number in range(count)], pa.large_list(pa.float64())),
            "label": pa.array([number % 2 for number in range(count)], pa.float64()),
        }
    )


def write(folder: Path, table: pa.Table, batch_rows: int) -> dict[str, files.WrittenSplit]:
    folder.mkdir()
    return dict(files.write_splits(iter(table.to_batches(batch_rows)), SPEC_READ, WINDOWS, folder))


def test_rows_go_to_their_window_and_those_of_the_gap_nowhere(tmp_path: Path) -> None:
    splits = write(tmp_path / "a", rows(), 100)

    assert {name: split.entry.file.rows for name, split in splits.items()} == {"train": 400, "test": 200}
    train = pq.read_table(splits["train"].path)
    assert train.column_names == ["key", "time", "carrier", "distance", "booked", "began", "embedding", "label"]
    assert train.schema.field("time").type == pa.timestamp("us", "UTC")
    assert train["began"].to_pylist() == train["time"].to_pylist()
    assert max(train["time"].to_pylist()) < datetime(2024, 1, 3, tzinfo=UTC)
    assert train["carrier"].to_pylist()[:2] == [None, "é1"]


def test_bytes_do_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 64)
    entries = [
        {name: split.entry for name, split in write(tmp_path / str(size), rows(), size).items()}
        for size in (1, 7, 64, 1000)
    ]
    assert all(entry == entries[0] for entry in entries)
    path = tmp_path / "7" / "train.parquet"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entries[0]["train"].file.sha256
    assert pq.ParquetFile(path).metadata.num_row_groups == 7


@pytest.mark.parametrize(
    ("column", "value"),
    [("carrier", "other"), ("carrier", ""), ("distance", 99.0), ("label", 0.0), ("key", "t00002")],
)
def test_another_value_is_another_digest(tmp_path: Path, column: str, value: object) -> None:
    table = rows()
    values = table[column].to_pylist()
    values[1 if column != "carrier" or value else 0] = value
    changed = table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))

    one, other = write(tmp_path / "a", table, 100)["train"].entry, write(tmp_path / "b", changed, 100)["train"].entry

    assert one.rows_sha256 != other.rows_sha256
    assert one.file.sha256 != other.file.sha256


def test_no_rows_are_an_empty_file(tmp_path: Path) -> None:
    split = write(tmp_path / "a", rows().slice(0, 0), 10)["train"]
    assert split.entry.file.rows == pq.read_table(split.path).num_rows == 0
