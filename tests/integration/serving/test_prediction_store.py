"""What ships the log holds nobody up while it sends."""

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from services.serving.prediction_log.record import PredictionRecord
from services.serving.repository import PredictionStore
from shared.ids import new_id
from shared.registry.session import Sessions, ingest_settled
from tests.support.waiting import DEADLINE_S

AT = datetime(2013, 6, 2, 16, tzinfo=UTC)


class Stalling(list[PredictionRecord]):
    """Records whose sending stops in the middle: the process is frozen, the network gone."""

    def __init__(self, *records: PredictionRecord) -> None:
        super().__init__(records)
        self.stalls, self.goes_on = threading.Event(), threading.Event()
        self._sends = False

    def __iter__(self) -> Iterator[PredictionRecord]:
        for record in super().__iter__():
            yield record
            if self._sends:
                self.stalls.set()
                assert self.goes_on.wait(DEADLINE_S)
        self._sends = True  # the first pass makes the partitions


def record(key: str) -> PredictionRecord:
    facts: dict[str, Any] = {"version_number": 1, "generation": 1, "pinned": False, "latency_us": 100}
    return PredictionRecord(
        request_id=new_id(),
        pipeline_id=uuid.UUID(int=1),
        version_id=uuid.UUID(int=2),
        keys=[key],
        event_times=[AT],
        available_ats=[AT],
        instances=[{"carrier": "AA"}],
        scores=[0.5],
        api_key_id="aaaaaaaaaaaa",
        caller_request_id="r",
        **facts,
    )


def test_a_stalled_shipment_holds_up_no_watermark(sessions: Sessions) -> None:
    records = Stalling(record("a"), record("b"))
    thread = threading.Thread(target=PredictionStore(sessions), args=[records])
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
