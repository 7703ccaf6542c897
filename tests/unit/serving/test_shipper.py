"""The shipper: everything once, in order; what the registry refuses is set aside and holds up nothing."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest

from services.serving.prediction_log import shipper as module
from services.serving.prediction_log.folder import claim
from services.serving.prediction_log.record import Logged, decode, head
from services.serving.prediction_log.shipper import Progress, RecordRefused, Shipper
from services.serving.prediction_log.spool import Spool
from shared.ids import id_time, new_id

DEADLINE_S = 30


def record(key: str) -> bytes:
    request_id = new_id()
    return head(request_id.int >> 80, 1) + orjson.dumps({"request": request_id.hex, "keys": [key]})


def key_of(record: Logged) -> str:
    key: str = orjson.loads(record.document)["keys"][0]
    return key


class Table:
    """A registry in memory, with a switch to be away and keys it refuses."""

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.away = threading.Event()
        self.before: Callable[[Sequence[Logged]], None] = lambda _: None
        self.refused = set(refused)
        self.rows: dict[str, Logged] = {}
        self.tries = 0

    def __call__(self, records: Sequence[Logged]) -> None:
        self.tries += 1
        self.before(records)
        if self.away.is_set():
            raise ConnectionError("away")
        if any(key_of(record) in self.refused or b"1e-20000" in record.document for record in records):
            raise RecordRefused("no")
        for record in records:
            self.rows.setdefault(orjson.loads(record.document)["request"], record)

    def keys(self) -> list[str]:
        return [key_of(record) for record in self.rows.values()]


def set_aside(folder: Path) -> list[str]:
    lines = (folder / module.REFUSED_FILE).read_bytes().splitlines()
    return sorted(orjson.loads(line).get("keys", ["no record"])[0] for line in lines)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Running:
    """A shipper in a thread, and what it reports to its spool."""

    def __init__(self, root: Path, table: Table, folder: Path | None = None, *, begin: bool = True) -> None:
        self.folder = folder or claim(root).path
        self.spool = Spool(self.folder, limit_bytes=10**6)
        self.reports: list[Progress] = []
        self._stopping = threading.Event()
        shipper = Shipper(root, self.folder, table, self._hear, sealed_below=self.spool.sealed_below, interval_s=0.01)
        self._thread = threading.Thread(target=shipper.run, args=[self._stopping, DEADLINE_S], daemon=True)
        if begin:
            self.begin()

    def begin(self) -> None:
        self._thread.start()

    def _hear(self, progress: Progress) -> None:
        self.reports.append(progress)
        if progress.number:
            self.spool.shipped(progress.number, progress.end)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


def test_a_record_survives_its_encoding() -> None:
    request_id = new_id()
    read = decode(head(request_id.int >> 80, 3) + b'{"x":1}')
    assert (read.requested_at, read.rows, read.document) == (id_time(request_id), 3, b'{"x":1}')


def test_a_frame_of_another_format_is_no_record() -> None:
    for payload in (b"", b"{}", b'{"no": "record"}', b"\x02", head(1, 1)):
        with pytest.raises(ValueError, match="format"):
            decode(payload)


def test_everything_is_shipped_and_the_rest_at_the_end(tmp_path: Path) -> None:
    table = Table()
    running = Running(tmp_path, table)
    for number in range(50):
        running.spool.append(record(f"k{number}"))
    running.stop()
    assert table.keys() == [f"k{number}" for number in range(50)]
    assert running.spool.waiting_bytes == 0
    assert sum(report.shipped_rows for report in running.reports) == 50
    assert running.reports[-1].oldest_ms is None, "nothing waits"


def test_an_outage_is_sat_out_and_told(tmp_path: Path) -> None:
    table = Table()
    table.away.set()
    running = Running(tmp_path, table)
    running.spool.append(record("one"))
    until(lambda: table.tries >= 2)
    assert running.spool.waiting_bytes > 0
    until(lambda: sum(report.failures for report in running.reports) >= 2)
    assert running.reports[-1].oldest_ms is not None
    table.away.clear()
    until(lambda: table.keys() == ["one"])
    running.stop()
    assert running.spool.waiting_bytes == 0


def test_a_refused_record_is_set_aside_and_the_others_are_stored(tmp_path: Path) -> None:
    table = Table(refused=["bad"])
    running = Running(tmp_path, table)
    for key in ("one", "bad", "two"):
        running.spool.append(record(key))
    running.spool.append(b'{"no": "record"}')
    running.spool.append(record("three"))
    until(lambda: len(table.rows) == 3)
    running.stop()
    assert table.keys() == ["one", "two", "three"]
    assert sum(report.refused for report in running.reports) == 2
    assert sum(report.shipped_rows for report in running.reports) == 3
    assert set_aside(running.folder) == ["bad", "no record"]


def test_what_is_set_aside_is_so_once_however_often_the_rest_must_be_tried(tmp_path: Path) -> None:
    table = Table(refused=["bad"])
    running = Running(tmp_path, table, begin=False)
    for key in ("one", "bad", "two"):
        running.spool.append(record(key))
    running.spool.append(b'{"no": "record"}')
    calls: list[int] = []

    def away_at_first(records: Sequence[Logged]) -> None:
        """When the bad one has been found, the registry goes away before all others are stored."""
        calls.append(len(records))
        if len(calls) < 12 and len(records) == 1 and key_of(records[0]) == "two":
            raise ConnectionError("away")

    table.before = away_at_first
    running.begin()
    until(lambda: len(table.rows) == 2)
    running.stop()
    assert sum(report.failures for report in running.reports) > 0
    assert sum(report.shipped_rows for report in running.reports) == 2
    assert sum(report.refused for report in running.reports) == 2
    assert set_aside(running.folder) == ["bad", "no record"]


def test_numbers_that_only_json_knows_cost_one_more_try(tmp_path: Path) -> None:
    table = Table()
    running = Running(tmp_path, table, begin=False)
    odd = record("odd")
    running.spool.append(*(record(f"k{number}") for number in range(999)), odd[:-1] + b',"x":1e-20000}')
    running.begin()
    until(lambda: len(table.rows) == 1000)
    running.stop()
    assert table.tries == 2
    assert not (running.folder / module.REFUSED_FILE).exists()


def test_one_bad_record_of_many_is_found_by_halves(tmp_path: Path) -> None:
    table = Table(refused=["k333"])
    running = Running(tmp_path, table, begin=False)
    running.spool.append(*(record(f"k{number}") for number in range(1024)))
    running.begin()
    until(lambda: len(table.rows) == 1023)
    running.stop()
    assert table.tries == 2 + 2 * 10
    assert set_aside(running.folder) == ["k333"]


def test_a_damaged_place_is_told(tmp_path: Path) -> None:
    folder = claim(tmp_path).path
    Spool(folder, limit_bytes=10**6).append(record("one"), record("two"), record("three"))
    (path,) = folder.glob("*.seg")
    path.write_bytes(path.read_bytes().replace(b'["two"]', b'["tow"]'))
    table = Table()
    running = Running(tmp_path, table, folder)
    until(lambda: len(table.rows) == 2)
    running.stop()
    assert table.keys() == ["one", "three"]
    assert sum(report.damaged for report in running.reports) == 1
    assert list(folder.glob("*.seg")) == []


def test_the_log_of_a_process_that_is_gone_is_shipped(tmp_path: Path) -> None:
    mine, gone = claim(tmp_path), claim(tmp_path)
    Spool(gone.path, limit_bytes=10**6).append(record("orphan"))
    gone.release()
    table = Table()
    running = Running(tmp_path, table, mine.path)
    until(lambda: table.keys() == ["orphan"])
    running.stop()
    assert list(gone.path.glob("*.seg")) == []


def test_the_backlog_of_a_process_that_is_gone_never_holds_up_the_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_RECORDS", 2)
    mine, gone = claim(tmp_path), claim(tmp_path)
    Spool(gone.path, limit_bytes=10**6).append(*(record(f"orphan {number}") for number in range(6)))
    gone.release()
    table = Table()
    running = Running(tmp_path, table, mine.path, begin=False)

    def predict_meanwhile(records: Sequence[Logged]) -> None:
        if (key := key_of(records[0])).startswith("orphan"):
            running.spool.append(record(f"own, after {key}"))

    table.before = predict_meanwhile
    running.begin()
    until(lambda: len(table.rows) == 9)
    running.stop()
    assert table.keys() == [
        "orphan 0", "orphan 1", "own, after orphan 0",
        "orphan 2", "orphan 3", "own, after orphan 2",
        "orphan 4", "orphan 5", "own, after orphan 4",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_read_holds_up_nobody(tmp_path: Path) -> None:
    mine, broken, gone = claim(tmp_path), claim(tmp_path), claim(tmp_path)
    (broken.path / "000000000001.seg").mkdir()
    Spool(gone.path, limit_bytes=10**6).append(record("orphan"))
    broken.release()
    gone.release()
    table = Table()
    running = Running(tmp_path, table, mine.path)
    until(lambda: table.keys() == ["orphan"])
    running.spool.append(record("own"))
    until(lambda: table.keys() == ["orphan", "own"])
    running.stop()
    assert sum(report.failures for report in running.reports) == 1
