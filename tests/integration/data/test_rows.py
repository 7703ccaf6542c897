"""Events and labels over HTTP: idempotent, never aborted by a bad row, nothing lost."""

import io
import itertools
import threading
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import func, select, text
from sqlmodel import col

from services.data.config import DataSettings
from services.data.decode import MediaType, decode
from services.data.ingest import CONFLICT, ingest_events, open_target
from services.data.repository import quarantine
from shared.ids import new_id
from shared.labels import EFFECTIVE_ORDER, LabelSource, NewLabel, insert_labels
from shared.prediction_ids import PredictionIds
from shared.registry.tables import Event, Label, QuarantinedRow
from tests.conftest import PREDICTION_SECRET
from tests.integration.data.conftest import Service
from tests.support.waiting import until
from tests.unit.data.samples import at, event, iso, labelled


def stored(service: Service, table: Any) -> int:
    with service.sessions.begin() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_sending_again_is_safe(trips: Service) -> None:
    rows = [labelled(number, number) for number in range(10)]
    assert trips.events(rows) == {"accepted": 10, "duplicates": 0, "quarantined": []}
    assert trips.events(rows[::-1]) == {"accepted": 0, "duplicates": 10, "quarantined": []}
    assert trips.events([rows[0], rows[0], labelled(99, 5), labelled(99, 5)]) == {
        "accepted": 1, "duplicates": 3, "quarantined": [],
    }  # fmt: skip
    assert (stored(trips, Event), stored(trips, Label)) == (11, 11)


def test_defaults_of_time_do_not_break_that(trips: Service) -> None:
    row = {**event(1, 3, late=1), "available_at": None}
    for _ in range(3):
        trips.events([row])
    label = {"key": "t0001", "label": 1}
    assert trips.labels([label])["accepted"] == 1
    assert trips.labels([label])["duplicates"] == 1
    assert (stored(trips, Event), stored(trips, Label)) == (1, 2)
    # Another word, and then the first one again, are corrections.
    assert trips.labels([{"key": "t0001", "label": 0}])["accepted"] == 1
    assert trips.labels([label])["accepted"] == 1


def test_a_label_may_come_with_the_event_sent_again(trips: Service) -> None:
    assert trips.events([event(1, 3)])["accepted"] == 1
    assert trips.events([labelled(1, 3)])["duplicates"] == 1
    assert stored(trips, Label) == 1


def test_other_content_under_a_key_is_a_conflict_and_the_first_stays(trips: Service) -> None:
    trips.events([event(1, 3)])
    verdicts = trips.events([event(2, 3), event(1, 3, distance=9, late=1), event(3, 3), event(3, 4)])

    assert verdicts["accepted"] == 2
    assert verdicts["quarantined"] == [
        {"index": 1, "reason": f"trip: {CONFLICT}"},
        {"index": 3, "reason": f"trip: {CONFLICT}"},
    ]
    with trips.sessions.begin() as session:
        payload = session.scalars(select(Event.payload).where(col(Event.key) == "t0001")).one()
    assert payload["distance"] == 0.25
    assert stored(trips, Label) == 0
    kept = trips.get("/pipelines/trips/quarantine")["items"]
    assert orjson.loads(kept[-1]["payload"])["distance"] == 9


def test_bad_rows_go_to_quarantine_and_the_rest_is_taken(trips: Service) -> None:
    lines = [
        orjson.dumps(event(1, 1)),
        b'{"trip": "t2", "began": NaN}',
        b'{"trip": "t3\\u0000", "began": "2024-01-01T00:00:00Z"}',
        b"\xff\xfe",
        orjson.dumps({**event(4, 1), "distance": "far", "score": 1}),
        b'{"trip": "t5", "distance": 1e999}',
        b'{"trip": "t6", "began": 99999999999999999999}',
        b"[]",
        orjson.dumps(event(7, 1)),
    ]
    answer = trips.client.post(
        "/v1/pipelines/trips/events", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    verdicts = answer.json()
    assert answer.status_code == 200
    assert (verdicts["accepted"], verdicts["duplicates"]) == (2, 0)
    assert [row["index"] for row in verdicts["quarantined"]] == [1, 2, 3, 4, 5, 6, 7]
    assert verdicts["quarantined"][3]["reason"] == "distance: must be a number; score: is no field of this pipeline"
    page = trips.get("/pipelines/trips/quarantine", params={"limit": 3})
    rest = trips.get("/pipelines/trips/quarantine", params={"after": page["next"]})
    assert (len(page["items"]), len(rest["items"]), rest["next"]) == (3, 4, None)
    assert trips.get("/pipelines/trips/quarantine", params={"kind": "label"})["items"] == []


def test_a_bad_row_sent_again_is_counted_and_not_kept_again(trips: Service) -> None:
    bad = [event(1, 1, distance="far"), event(2, 1, distance="near")]
    first = trips.events([*bad, event(3, 1)])
    assert trips.events([*bad[::-1], bad[0], event(3, 1)])["duplicates"] == 1
    kept = trips.get("/pipelines/trips/quarantine")["items"]
    assert [(orjson.loads(row["payload"])["trip"], row["times"]) for row in kept] == [("t0002", 2), ("t0001", 3)]
    assert all(row["last_received_at"] > row["received_at"] for row in kept)
    # Refused for another reason, or as another kind of row, it is news.
    trips.events([{**bad[0], "score": 1}])
    trips.labels(bad)
    kept = trips.get("/pipelines/trips/quarantine")["items"]
    assert [(row["kind"], row["times"]) for row in kept] == [
        *[("label", 1)] * 2,
        ("event", 1),
        ("event", 2),
        ("event", 3),
    ]
    assert [row["index"] for row in first["quarantined"]] == [0, 1]


def test_writers_of_the_same_bad_rows_do_not_wait_in_a_circle(trips: Service) -> None:
    pipeline, one, two = trips.pipeline_id(), ("bad", "1"), ("bad", "2")

    def other() -> None:
        with trips.sessions.begin() as session:
            quarantine(session, pipeline, "event", [two, one])

    def waits() -> bool:
        with trips.sessions.begin() as session:
            return bool(session.scalar(text("select count(*) from pg_locks where not granted")))

    with trips.sessions.begin() as session:
        quarantine(session, pipeline, "event", [one])
        thread = threading.Thread(target=other)
        thread.start()
        until(waits, "the other writer waits for this one")
        quarantine(session, pipeline, "event", [two])
    thread.join()
    with trips.sessions.begin() as session:
        assert list(session.scalars(select(QuarantinedRow.times))) == [2, 2]


def test_parquet_and_arrow_over_http(trips: Service) -> None:
    rows = pa.Table.from_pylist([labelled(number, number) for number in range(20)])
    parquet, stream = io.BytesIO(), pa.BufferOutputStream()
    pq.write_table(rows, parquet)
    with pa.ipc.new_stream(stream, rows.schema) as writer:
        writer.write_table(rows)
    for kind, body, accepted in (
        (MediaType.PARQUET, parquet.getvalue(), 20),
        (MediaType.ARROW, bytes(stream.getvalue()), 0),
    ):
        answer = trips.client.post("/v1/pipelines/trips/events", content=body, headers={"content-type": kind})
        assert answer.json() == {"accepted": accepted, "duplicates": 20 - accepted, "quarantined": []}


def test_chunks_agree_with_one_piece(trips: Service) -> None:
    rows = [labelled(number % 7, number % 7) for number in range(20)]
    rows[3]["distance"] = 99
    rows[11]["distance"] = "far"
    target = open_target(trips.sessions, "trips")
    body = orjson.dumps(rows)
    verdicts = ingest_events(
        trips.sessions, target, decode(body, MediaType.JSON, target.spec, DataSettings(chunk_rows=4))
    )
    assert (verdicts.accepted, verdicts.duplicates) == (7, 10)
    assert [row["index"] for row in verdicts.quarantined] == [10, 11, 17]


def test_writers_of_the_same_rows_do_not_deadlock(trips: Service) -> None:
    rows = [labelled(number, number % 30) for number in range(400)]
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda part=part: answers.append(trips.events(part)))
        for part in (rows, rows[::-1], rows[200:] + rows[:200], rows[::-1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer["accepted"] for answer in answers) == 400
    assert sum(answer["duplicates"] for answer in answers) == 1200
    assert (stored(trips, Event), stored(trips, Label)) == (400, 400)


def test_labels_by_key_and_by_prediction(trips: Service) -> None:
    good = PredictionIds(PREDICTION_SECRET).make("trips", new_id(), 2)
    other = PredictionIds(PREDICTION_SECRET).make("elsewhere", new_id(), 2)
    forged = good[:-1] + ("0" if good[-1] != "0" else "1")
    verdicts = trips.labels(
        [
            {"key": "t1", "label": 1},
            {"prediction_id": good, "label": False, "source": "implicit"},
            {"prediction_id": good, "label": False, "source": "implicit"},
            {"prediction_id": forged, "label": 1},
            {"prediction_id": other, "label": 1},
            {"key": "t1", "label": 2},
        ]
    )
    assert (verdicts["accepted"], verdicts["duplicates"]) == (2, 1)
    assert [row["index"] for row in verdicts["quarantined"]] == [3, 4, 5]
    assert {item["kind"] for item in trips.get("/pipelines/trips/quarantine")["items"]} == {"label"}


def test_insert_labels_tells_what_was_new_in_order(trips: Service) -> None:
    def label(key: str, value: float) -> NewLabel:
        return NewLabel(value, at(1), at(1), LabelSource.EXPLICIT, key)

    batch = [label("b", 1), label("a", 0), label("b", 1), label("c", 1)]
    with trips.sessions.begin() as session:
        assert insert_labels(session, trips.pipeline_id(), batch) == [True, True, False, True]
    with trips.sessions.begin() as session:
        assert insert_labels(session, trips.pipeline_id(), [*batch, label("d", 1)]) == [False] * 4 + [True]


WORDS = (
    {"label": 0, "source": "explicit", "time": iso(4)},
    {"label": 1, "source": "explicit", "time": iso(3)},
    {"label": 1, "source": "implicit", "time": iso(6)},
    {"label": 1, "source": "explicit", "time": iso(2)},
)


def test_any_order_of_labels_gives_the_same_effective_one(trips: Service) -> None:
    orders = list(itertools.permutations(WORDS))
    for number, order in enumerate(orders):
        for word in order:
            assert trips.labels([{"key": f"t{number}", **word}])["accepted"] == 1
    with trips.sessions.begin() as session:
        effective = session.execute(
            text(f"select distinct on (key) key, label from labels order by key, {EFFECTIVE_ORDER}")
        ).all()
    assert len(effective) == len(orders)
    assert {row.label for row in effective} == {0}
