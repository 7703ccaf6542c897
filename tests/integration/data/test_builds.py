"""Builds: the same pins give the same digest, watermarks are true, and only who holds the lease may finish."""

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text
from sqlmodel import col

from services.data import build, repository
from services.data.tasks import build_row
from shared import scratch
from shared.artifacts import ArtifactStore
from shared.contracts.tasks import TaskName
from shared.errors import StoreFull, Unavailable
from shared.ids import new_id
from shared.jobs.lease import STOPPED, claim
from shared.jobs.work import DATASET
from shared.labels import LabelSource, NewLabel, insert_labels
from shared.registry import session as registry_session
from shared.registry.session import ingest_settled, lock_for_ingest
from shared.registry.tables import Dataset, OutboxMessage
from shared.spec import parse
from tests.integration.data.conftest import Service
from tests.integration.data.predictions import log_predictions
from tests.unit.data.samples import SPEC, at, event, iso, labelled, labelled_month

DEADLINE_S = 60


@pytest.fixture
def month(trips: Service) -> Service:
    """Thirty days of labelled events."""
    trips.events(labelled_month())
    return trips


def asked(service: Service, **body: Any) -> Any:
    return service.post("/pipelines/trips/datasets", {"as_of": iso(31), **body}, 202)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def test_earlier_versions_rebuild_to_the_same_digest_after_more_data_came(month: Service) -> None:
    first = month.dataset(as_of=iso(31))
    log_predictions(month.sessions, month.pipeline_id(), [event(108, 27, distance=7, available_at=None)], at(27))
    second = month.dataset(as_of=iso(31))
    # Late events, corrected labels and a changed spec, all of which claim to have been known all along.
    month.events([labelled(900 + number, 12 + number / 2) for number in range(20)])
    month.labels([{"key": "t0050", "label": 1, "time": iso(20), "available_at": iso(20)}])
    log_predictions(month.sessions, month.pipeline_id(), [event(110, 27.5, distance=8, available_at=None)], at(27.5))
    month.client.post("/v1/pipelines", json={**SPEC, "features": {"distance": {"type": "number"}}})
    third = month.dataset(as_of=iso(31))

    assert len({first["digest"], second["digest"], third["digest"]}) == 3
    for dataset in (first, second, third):
        verified = month.post(f"/pipelines/trips/datasets/{dataset['number']}/verify", None)
        assert verified["same"], verified
        assert verified["same_rows"]
        assert verified["rebuilt_digest"] == dataset["digest"]


def test_the_digest_does_not_depend_on_the_order_of_arrival(month: Service) -> None:
    """The same facts in another order, under another pipeline name, give the same rows."""
    month.post("/pipelines", {**SPEC, "name": "again"}, 201)
    month.post("/pipelines/again/events", labelled_month()[::-1])
    one, other = month.dataset(as_of=iso(31)), month.dataset("again", as_of=iso(31))
    rows = [
        month.client.get(f"/v1/pipelines/{name}/datasets/1/splits/train").headers["etag"] for name in ("trips", "again")
    ]
    assert rows[0] == rows[1]
    assert one["digest"] != other["digest"]


def test_a_dataset_of_now_pins_what_was_committed_even_when_sequences_commit_out_of_order(month: Service) -> None:
    pipeline = month.pipeline_id()

    def word(key: str) -> NewLabel:
        return NewLabel(0.0, at(20), at(20), LabelSource.EXPLICIT, key)

    row_id = uuid.UUID(asked(month)["id"])
    early = month.sessions()
    insert_labels(early, pipeline, [word("t0050")])  # takes a sequence and does not commit yet
    with month.sessions.begin() as late:
        insert_labels(late, pipeline, [word("t0052")])  # takes a later one and commits first
    build_thread = threading.Thread(target=month.build, args=[row_id])
    build_thread.start()

    def waits() -> bool:
        query = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and not granted"
        with month.sessions.begin() as session:
            return bool(session.scalar(text(query)))

    until(waits, "the build waits for the append in flight")
    assert month.row(1).label_watermark is None
    early.commit()
    early.close()
    build_thread.join(DEADLINE_S)

    dataset = month.row(1)
    assert dataset.state == "ready", dataset.reason
    with month.sessions.begin() as session:
        assert dataset.label_watermark == session.scalar(text("select max(seq) from labels"))
    assert month.post("/pipelines/trips/datasets/1/verify", None)["same"]


def test_an_append_that_stalls_delays_a_build_and_costs_it_nothing(
    month: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_session, "SETTLE_TRY_MS", 100)
    monkeypatch.setattr(registry_session, "SETTLE_S", 0.5)
    row_id = uuid.UUID(asked(month)["id"])
    with month.sessions() as stalled:
        lock_for_ingest(stalled)
        month.build(row_id)
        given_back = month.row(1)
        assert (given_back.state, given_back.attempt, given_back.event_watermark) == ("queued", 0, None)
        assert "Rows are still being stored" in (given_back.reason or "")
    with month.sessions.begin() as session:
        session.execute(text("update datasets set lease_until = null"))
    month.build(row_id)
    done = month.row(1)
    assert (done.state, done.attempt) == ("ready", 1), done.reason


def test_a_retry_reads_what_the_first_attempt_pinned(month: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = uuid.UUID(asked(month)["id"])

    def away(*_: object, **__: object) -> None:
        raise Unavailable("the artifact store cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(month.store, "put_file", away)
        month.build(row_id)
    given_back = month.row(1)
    assert (given_back.state, given_back.attempt, given_back.digest) == ("queued", 0, None)
    assert given_back.reason == "the artifact store cannot be reached. It is tried again after 10 s."
    month.events([labelled(900, 20)])

    wait_over(month)
    month.build(row_id)

    done = month.row(1)
    assert (done.state, done.attempt, done.reason) == ("ready", 1, None)
    assert done.event_watermark == given_back.event_watermark
    assert (done.train_rows, done.test_rows) == (56, 20)


def wait_over(month: Service) -> None:
    with month.sessions.begin() as session:
        session.execute(text("update datasets set lease_until = now() - interval '1 second'"))


@pytest.mark.parametrize(
    ("fault", "attempt", "words"),
    [
        (psycopg.OperationalError("the connection is closed"), 0, "The registry could not be reached."),
        (psycopg.errors.QueryCanceled("statement timeout"), 1, "The registry broke off the work (QueryCanceled)."),
        (psycopg.errors.ConfigurationLimitExceeded("temp_file_limit"), 1, "The registry broke off the work"),
        (StoreFull("the store is full"), 1, "the store is full."),
        (OSError("no space left"), 1, "Interrupted by a passing fault (OSError)."),
    ],
    ids=["outage", "query too long", "too large", "store full", "disk"],
)
def test_only_an_outage_uses_up_no_attempt(
    month: Service, monkeypatch: pytest.MonkeyPatch, fault: Exception, attempt: int, words: str
) -> None:
    row_id = uuid.UUID(asked(month)["id"])

    def broken(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(build, "read_extracts", broken)
    month.build(row_id)
    row = month.row(1)
    assert (row.state, row.attempt) == ("queued", attempt)
    assert (row.reason or "").startswith(words)


@pytest.mark.parametrize("step", ["joining and writing", "storing"])
def test_a_worker_that_is_asked_to_stop_hands_its_build_over(
    month: Service, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    row_id, stopping, began = uuid.UUID(asked(month)["id"]), threading.Event(), build.LeaseWatch.step

    def asked_to_stop(watch: build.LeaseWatch, name: str) -> None:
        if name == step:
            stopping.set()
        began(watch, name)

    with month.sessions.begin() as session:
        session.execute(text("delete from outbox"))
    monkeypatch.setattr(build.LeaseWatch, "step", asked_to_stop)
    build_row(row_id, month.sessions, month.store, month.settings, month.limits, stopping=stopping)
    row = month.row(1)
    assert (row.state, row.attempt, row.lease_until, row.reason) == ("queued", 0, None, STOPPED)
    with month.sessions.begin() as session:
        nudges = session.scalars(select(OutboxMessage)).all()
        assert [(nudge.task, nudge.row_id) for nudge in nudges] == [(TaskName.BUILD_DATASET, row_id)]
    monkeypatch.undo()
    month.build(row_id)
    assert (month.row(1).state, month.row(1).attempt) == ("ready", 1)


def test_a_worker_that_is_asked_to_stop_does_not_wait_for_rows_in_flight(month: Service) -> None:
    row_id, stopping = uuid.UUID(asked(month)["id"]), threading.Event()
    arguments = [row_id, month.sessions, month.store, month.settings, month.limits]
    worker = threading.Thread(target=build_row, args=arguments, kwargs={"stopping": stopping}, daemon=True)
    with month.sessions() as stalled:
        lock_for_ingest(stalled)
        worker.start()
        until(lambda: month.row(1).state == "building", "the build waits for the append in flight")
        stopping.set()
        until(lambda: month.row(1).state == "queued", "it is handed over")
    worker.join(DEADLINE_S)
    assert (month.row(1).attempt, month.row(1).reason) == (0, STOPPED)


def test_a_database_that_breaks_off_gives_the_row_back(month: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = uuid.UUID(asked(month)["id"])

    def broken(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("the connection is closed")

    monkeypatch.setattr(build, "read_extracts", broken)
    month.build(row_id)
    assert month.row(1).state == "queued"

    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(build, "read_extracts", faulty)
    wait_over(month)
    month.build(row_id)
    row = month.row(1)
    assert row.state == "failed"
    assert "ZeroDivisionError" in (row.reason or "")


def test_a_worker_that_lost_its_lease_writes_nothing(month: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = uuid.UUID(asked(month)["id"])
    whole_build = build.build

    def taken_meanwhile(*arguments: Any) -> Any:
        built = whole_build(*arguments)
        with month.sessions.begin() as session:
            session.execute(text("update datasets set state = 'queued', lease_until = null"))
        lease = claim(month.sessions, DATASET, row_id, lease_s=60, max_attempts=3)
        assert lease is not None
        assert lease.fence == 2
        return built

    monkeypatch.setattr(build, "build", taken_meanwhile)
    month.build(row_id)

    row = month.row(1)
    assert (row.state, row.fence, row.digest, row.train_rows) == ("building", 2, None, None)


def test_a_repeated_nudge_does_nothing(month: Service) -> None:
    row_id = uuid.UUID(asked(month)["id"])
    month.build(row_id)
    done = month.row(1)
    month.build(row_id)
    assert month.row(1).fence == done.fence == 1
    month.build(new_id())


def test_pins_are_written_once_and_only_by_the_holder(month: Service) -> None:
    row_id = uuid.UUID(asked(month)["id"])
    lease = claim(month.sessions, DATASET, row_id, lease_s=60, max_attempts=3)
    assert lease is not None
    with ingest_settled(month.sessions) as session:
        assert repository.pin_watermarks(session, row_id, lease.fence + 1) is None
    with ingest_settled(month.sessions) as session:
        first = repository.pin_watermarks(session, row_id, lease.fence).event_watermark
    month.events([labelled(900, 20)])
    with ingest_settled(month.sessions) as session:
        assert repository.pin_watermarks(session, row_id, lease.fence).event_watermark == first


def test_builds_and_rebuilds_leave_no_scratch_and_remove_what_was_left(
    month: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def leave() -> None:
        left = tmp_path / f"{scratch.PREFIX}left"
        left.mkdir()
        (left / "events.parquet").write_bytes(b"x")
        os.utime(left, (0, 0))

    leave()
    assert month.dataset(as_of=iso(31))["state"] == "ready"
    assert list(tmp_path.glob("relevo-*")) == []
    leave()
    assert month.post("/pipelines/trips/datasets/1/verify", None)["same"]
    assert list(tmp_path.glob("relevo-*")) == []


def test_asking_writes_the_row_its_nudge_and_its_answer_together(month: Service) -> None:
    headers = {"Idempotency-Key": "cycle-1-dataset"}
    cycle = str(new_id())
    first = month.post("/pipelines/trips/datasets", {"as_of": iso(31), "cycle": cycle}, 202, headers=headers)
    again = month.post("/pipelines/trips/datasets", {"as_of": iso(31), "cycle": cycle}, 202, headers=headers)
    assert again == first
    assert (first["number"], first["state"], first["cycle_id"]) == (1, "queued", cycle)
    with month.sessions.begin() as session:
        nudges = session.scalars(select(OutboxMessage).where(col(OutboxMessage.task) == TaskName.BUILD_DATASET)).all()
        assert [str(nudge.row_id) for nudge in nudges] == [first["id"]]
    month.build(uuid.UUID(first["id"]))
    with month.sessions.begin() as session:
        nudges = session.scalars(select(OutboxMessage).where(col(OutboxMessage.task) == TaskName.ADVANCE_CYCLE)).all()
        assert [str(nudge.row_id) for nudge in nudges] == [cycle]


def test_datasets_are_numbered_without_gaps_by_many_at_once(month: Service) -> None:
    threads = [threading.Thread(target=asked, args=[month]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    page = month.get("/pipelines/trips/datasets", params={"limit": 5})
    assert [item["number"] for item in page["items"]] == [8, 7, 6, 5, 4]
    rest = month.get("/pipelines/trips/datasets", params={"after": page["next"]})
    assert [item["number"] for item in rest["items"]] == [3, 2, 1]


def test_as_of_defaults_to_now_and_is_never_in_the_future(month: Service) -> None:
    now = month.post("/pipelines/trips/datasets", {}, 202)["as_of"]
    with month.sessions.begin() as session:
        assert session.scalar(text("select now() - cast(:as_of as timestamptz) < interval '1 minute'"), {"as_of": now})
    for as_of in ("2999-01-01T00:00:00Z", "1800-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"):
        problem = month.post("/pipelines/trips/datasets", {"as_of": as_of}, 422)
        assert problem["errors"][0]["loc"] == ["body", "as_of"]


def test_damaged_files_are_never_handed_out(month: Service) -> None:
    dataset = month.dataset(as_of=iso(31))
    store: ArtifactStore = month.store
    for digest in (dataset["digest"],):
        store.delete(digest)
    answer = month.client.get("/v1/pipelines/trips/datasets/1/splits/train")
    assert answer.status_code == 500
    assert answer.json()["type"].endswith("artifact-missing")


def test_every_row_of_the_plan_is_in_the_spec(month: Service) -> None:
    month.dataset(as_of=iso(31))
    with month.sessions.begin() as session:
        row = session.scalars(select(Dataset)).one()
        plan = build.plan_of(row, repository.get_spec(session, row.pipeline_id, row.spec_version))
    assert plan.spec == parse(SPEC)
    assert plan.cut.watermarks == {
        "events": row.event_watermark,
        "labels": row.label_watermark,
        "predictions": row.prediction_watermark,
    }
