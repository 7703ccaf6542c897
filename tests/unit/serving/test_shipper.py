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
from services.serving.prediction_log.shipper import RecordRefused, Shipper
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


def start(root: Path, table: Table) -> tuple[Spool, Shipper]:
    folder = claim(root).path
    spool = Spool(folder, limit_bytes=10**6)
    shipper = Shipper(root, folder, spool, table, interval_s=0.01)
    shipper.start()
    return spool, shipper


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
    spool, shipper = start(tmp_path, table)
    for number in range(50):
        spool.append(record(f"k{number}"))
    shipper.stop(flush_s=10)
    assert table.keys() == [f"k{number}" for number in range(50)]
    assert spool.waiting_bytes == 0
    assert shipper.lag_s == 0 or shipper.oldest is not None


def test_an_outage_is_sat_out(tmp_path: Path) -> None:
    table = Table()
    table.away.set()
    spool, shipper = start(tmp_path, table)
    spool.append(record("one"))
    until(lambda: table.tries >= 2)
    assert shipper.lag_s > 0
    assert spool.waiting_bytes > 0
    table.away.clear()
    until(lambda: table.keys() == ["one"])
    shipper.stop(flush_s=1)


def test_a_refused_record_is_set_aside_and_the_others_are_stored(tmp_path: Path) -> None:
    table = Table(refused=["bad"])
    spool, shipper = start(tmp_path, table)
    for key in ("one", "bad", "two"):
        spool.append(record(key))
    spool.append(b'{"no": "record"}')
    spool.append(record("three"))
    until(lambda: len(table.rows) == 3)
    shipper.stop(flush_s=5)
    assert table.keys() == ["one", "two", "three"]
    lines = (tmp_path / "replica-0" / module.REFUSED_FILE).read_bytes().splitlines()
    assert sorted(orjson.loads(line).get("keys", ["no record"])[0] for line in lines) == ["bad", "no record"]


def test_the_log_of_a_process_that_is_gone_is_shipped(tmp_path: Path) -> None:
    mine, gone = claim(tmp_path), claim(tmp_path)
    Spool(gone.path, limit_bytes=10**6).append(record("orphan"))
    gone.release()
    table = Table()
    shipper = Shipper(tmp_path, mine.path, Spool(mine.path, limit_bytes=10**6), table, interval_s=0.01)
    shipper.start()
    until(lambda: table.keys() == ["orphan"])
    shipper.stop(flush_s=1)
    assert list(gone.path.glob("*.seg")) == []
