"""The shipper: everything once, in order; what the registry refuses is set aside and holds up nothing."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest

from services.serving.prediction_log import shipper as module
from services.serving.prediction_log.folder import claim
from services.serving.prediction_log.record import Logged, decode, encode
from services.serving.prediction_log.shipper import Progress, RecordRefused, Shipper
from services.serving.prediction_log.spool import Spool
from shared.ids import id_time, new_id

DEADLINE_S = 30


def record(key: str) -> bytes:
    request_id = new_id()
    return encode(request_id.int >> 80, 1, orjson.dumps({"request": request_id.hex, "keys": [key]}))


def key_of(record: Logged) -> str:
    key: str = orjson.loads(record.document)["keys"][0]
    return key


class Table:
    """A registry in memory, with a switch to be away and keys it refuses."""

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.away = threading.Event()
        self.refused = set(refused)
        self.rows: dict[str, Logged] = {}
        self.tries = 0

    def __call__(self, records: Sequence[Logged]) -> None:
        self.tries += 1
        if self.away.is_set():
            raise ConnectionError("away")
        if any(key_of(record) in self.refused for record in records):
            raise RecordRefused("no")
        for record in records:
            self.rows.setdefault(orjson.loads(record.document)["request"], record)

    def keys(self) -> list[str]:
        return [key_of(record) for record in self.rows.values()]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Running:
    """A shipper in a thread, and what it reports to its spool."""

    def __init__(self, root: Path, table: Table, folder: Path | None = None) -> None:
        self.folder = folder or claim(root).path
        self.spool = Spool(self.folder, limit_bytes=10**6)
        self.reports: list[Progress] = []
        self._stopping = threading.Event()
        shipper = Shipper(root, self.folder, table, self._hear, sealed_below=self.spool.sealed_below, interval_s=0.01)
        self._thread = threading.Thread(target=shipper.run, args=[self._stopping, DEADLINE_S])
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
    read = decode(encode(request_id.int >> 80, 3, b'{"x":1}'))
    assert (read.requested_at, read.rows, read.document) == (id_time(request_id), 3, b'{"x":1}')


def test_a_frame_of_another_format_is_no_record() -> None:
    for payload in (b"", b"{}", b'{"no": "record"}', b"\x02", encode(1, 1, b"x")[:-1]):
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
    lines = (running.folder / module.REFUSED_FILE).read_bytes().splitlines()
    assert sorted(orjson.loads(line).get("keys", ["no record"])[0] for line in lines) == ["bad", "no record"]


def test_the_log_of_a_process_that_is_gone_is_shipped(tmp_path: Path) -> None:
    mine, gone = claim(tmp_path), claim(tmp_path)
    Spool(gone.path, limit_bytes=10**6).append(record("orphan"))
    gone.release()
    table = Table()
    running = Running(tmp_path, table, mine.path)
    until(lambda: table.keys() == ["orphan"])
    running.stop()
    assert list(gone.path.glob("*.seg")) == []
