"""What ships the log stores each record once, as PostgreSQL takes it apart, and holds nobody up while it sends."""

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from services.serving.prediction_log.record import Logged, plainer
from services.serving.prediction_log.shipper import RecordRefused
from services.serving.prediction_log.store import PredictionStore
from shared.ids import new_id
from shared.instances import epoch_us
from shared.registry.session import Sessions, ingest_settled
from tests.support.waiting import DEADLINE_S

AT = datetime(2013, 6, 2, 16, tzinfo=UTC)


class Stalling(list[Logged]):
    """Records whose sending stops in the middle: the process is frozen, the network gone."""

    def __init__(self, *records: Logged) -> None:
        super().__init__(records)
        self.stalls, self.goes_on = threading.Event(), threading.Event()
        self._sends = False

    def __iter__(self) -> Iterator[Logged]:
        for record in super().__iter__():
            yield record
            if self._sends:
                self.stalls.set()
                assert self.goes_on.wait(DEADLINE_S)
        self._sends = True  # the first pass makes the partitions


@pytest.fixture
def store(database_url: str) -> Iterator[PredictionStore]:
    made = PredictionStore(database_url)
    yield made
    made.close()


def record(*keys: str, **fields: Any) -> Logged:
    request_id, at_us = new_id(), epoch_us(AT)
    rows = [{"id": key, "at": at_us, "carrier": "AA", "temp": None} for key in keys]
    document = {
        "request": request_id.hex,
        "pipeline": uuid.UUID(int=1).hex,
        "version": uuid.UUID(int=2).hex,
        "number": 1,
        "generation": 1,
        "pinned": False,
        "api_key": "aaaaaaaaaaaa",
        "caller_request": "r",
        "latency_us": 100,
        "not_logged": ["id", "at", "available_at"],
        "keys": list(keys),
        "times": [at_us] * len(keys),
        "available": [at_us] * len(keys),
        "scores": [0.5] * len(keys),
        "rows": rows,
        **fields,
    }
    return Logged(request_id.int >> 80, len(keys), orjson.dumps(document))


def stored(sessions: Sessions) -> list[Any]:
    with sessions.begin() as session:
        return list(session.execute(text("select * from prediction_requests order by request_id")))


def test_a_record_becomes_a_row(store: PredictionStore, sessions: Sessions) -> None:
    one = record("a", "b", scores=[0.25, 0.75], available=[epoch_us(AT) - 1, epoch_us(AT)])
    store([one])
    (row,) = stored(sessions)
    assert (row.requested_at, row.keys, row.scores) == (one.requested_at, ["a", "b"], [0.25, 0.75])
    assert row.event_times == [AT, AT]
    assert row.available_ats == [AT - timedelta(microseconds=1), AT]
    assert row.instances == [{"carrier": "AA"}, {"carrier": "AA"}]
    assert (row.version_number, row.generation, row.pinned, row.latency_us) == (1, 1, False, 100)
    assert (row.api_key_id, row.caller_request_id) == ("aaaaaaaaaaaa", "r")


def test_a_body_is_logged_as_it_was_sent(store: PredictionStore, sessions: Sessions) -> None:
    sent = {
        "model": "m",
        "instances": [{"carrier": "UA", "x": -0.0, "id": "a", "at": "2013-06-02T16:00:00Z", "temp": None}],
    }
    store([record("a", rows=None, sent=sent)])
    assert orjson.dumps(stored(sessions)[0].instances) == b'[{"x":0.0,"carrier":"UA"}]'


def test_a_record_given_again_is_stored_once(store: PredictionStore, sessions: Sessions) -> None:
    records = [record("a"), record("b")]
    store(records)
    store([*records, record("c")])
    assert [row.keys for row in stored(sessions)] == [["a"], ["b"], ["c"]]


def test_a_number_that_only_json_knows_is_stored_as_the_double_it_is(
    store: PredictionStore, sessions: Sessions
) -> None:
    odd = record("a")
    odd = Logged(odd.requested_ms, 1, odd.document.replace(b'"temp":null', b'"temp":1e-20000'))
    with pytest.raises(RecordRefused):
        store([odd])
    store([plainer(odd)])
    assert stored(sessions)[0].instances == [{"carrier": "AA", "temp": 0.0}]


def test_a_record_beyond_a_limit_of_postgres_is_refused_and_no_other(
    store: PredictionStore, sessions: Sessions
) -> None:
    """Nesting is the cheapest of the limits to break; JSON of 256 MiB is of the same class."""
    deep = Logged(record("a").requested_ms, 1, b'{"rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    with pytest.raises(RecordRefused, match="StatementTooComplex"):
        store([deep])
    store([record("b")])
    assert [row.keys for row in stored(sessions)] == [["b"]]


def test_a_stalled_shipment_holds_up_no_watermark(store: PredictionStore, sessions: Sessions) -> None:
    records = Stalling(record("a"), record("b"))
    thread = threading.Thread(target=store, args=[records])
    thread.start()
    try:
        assert records.stalls.wait(DEADLINE_S)
        with ingest_settled(sessions) as session:
            assert session.scalar(text("select max(seq) from prediction_requests")) is None
    finally:
        records.goes_on.set()
        thread.join(DEADLINE_S)
    with ingest_settled(sessions) as session:
        assert session.scalar(text("select count(*) from prediction_requests")) == 2
