"""The shipper: everything once, in order; what the registry refuses is set aside and holds up nothing."""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from services.serving.prediction_log import shipper as module
from services.serving.prediction_log.folder import claim
from services.serving.prediction_log.record import PredictionRecord, decode, encode
from services.serving.prediction_log.shipper import RecordRefused, Shipper
from services.serving.prediction_log.spool import Spool
from shared.ids import id_time, new_id
from shared.instances import Instance

AT = datetime(2013, 6, 2, 16, tzinfo=UTC)
DEADLINE_S = 30


def record(key: str) -> bytes:
    return encode(
        request_id=new_id(),
        pipeline_id=uuid.UUID(int=1),
        version_id=uuid.UUID(int=2),
        version_number=3,
        generation=4,
        pinned=False,
        rows=[Instance(key, AT, AT, {"carrier": "AA"})],
        scores=[0.5],
        latency_us=100,
        api_key_id="aaaaaaaaaaaa",
        caller_request_id="r",
    )


class Table:
    """A registry in memory, with a switch to be away and keys it refuses."""

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.away = threading.Event()
        self.refused = set(refused)
        self.rows: dict[uuid.UUID, PredictionRecord] = {}
        self.tries = 0

    def __call__(self, records: Sequence[PredictionRecord]) -> None:
        self.tries += 1
        if self.away.is_set():
            raise ConnectionError("away")
        if any(row.keys[0] in self.refused for row in records):
            raise RecordRefused("no")
        for row in records:
            self.rows.setdefault(row.request_id, row)

    def keys(self) -> list[str]:
        return [row.keys[0] for row in self.rows.values()]


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
    rows = [Instance("a", AT, AT, {"x": 1.5, "v": [1.0]}), Instance("b", AT, AT, {})]
    read = decode(
        encode(
            request_id=request_id, pipeline_id=uuid.UUID(int=1), version_id=uuid.UUID(int=2), version_number=3, generation=4,
            pinned=True, rows=rows, scores=[0.25, 0.75], latency_us=7, api_key_id="k", caller_request_id="r",
        )
    )  # fmt: skip
    assert (read.request_id, read.requested_at) == (request_id, id_time(request_id))
    assert (read.keys, read.event_times, read.available_ats) == (["a", "b"], [AT, AT], [AT, AT])
    assert (read.instances, read.scores, read.pinned) == ([{"x": 1.5, "v": [1.0]}, {}], [0.25, 0.75], True)


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
