"""What a build reads: the rows of its window, however long the history is."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlmodel import Session

from services.data import repository, source
from services.data.build import build, plan_of
from services.data.resolution import resolve_labels
from tests.integration.data.conftest import Service
from tests.integration.data.predictions import log_predictions
from tests.unit.data.samples import at, event, iso, labelled_month

HISTORY_ROWS = 20_000
"""Of each: events, requests, labels by key, labels by prediction."""


def fill(session: Session, service: Service) -> None:
    """Years of history long before the window, and of the time after it."""
    for statement in HISTORY.split(";"):
        session.execute(text(statement), {"pipeline": service.pipeline_id(), "rows": HISTORY_ROWS})


def test_a_build_reads_its_window_and_not_the_history(
    trips: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trips.events(labelled_month())
    for number in range(120):
        log_predictions(trips.sessions, trips.pipeline_id(), [event(number, number / 4)], at(number / 4))
    with trips.sessions.begin() as session:
        fill(session, trips)
    assert trips.dataset(as_of=iso(31))["state"] == "ready"
    with trips.sessions() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(text("vacuum analyze"))
        row = trips.row(1)
        plan = plan_of(row, repository.get_spec(session, row.pipeline_id, row.spec_version))
    read: dict[str, int] = {}
    extract = source._Reader.extract

    def counted(reader: Any, query: sql.Composable, columns: dict[str, pa.DataType], path: Path) -> int:
        extracted = extract(reader, query, columns, path)
        for table, rows in reader.connection.execute(ROWS_READ):
            read[table] = rows  # so far in this transaction: the last one has all
        return extracted

    monkeypatch.setattr(source._Reader, "extract", counted)
    built = build(trips.sessions, trips.limits, plan, tmp_path)

    assert built.manifest.digest == row.digest
    assert read["events"] >= 80
    assert sum(read.values()) < HISTORY_ROWS / 4, read


def test_all_labels_are_read_where_most_are_of_the_window(
    trips: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trips.events(labelled_month())
    for number in range(0, 120, 3):
        log_predictions(trips.sessions, trips.pipeline_id(), [event(number, number / 4)], at(number / 4))
    with trips.sessions.begin() as session:
        session.execute(text(SAID_OF_PREDICTIONS))
    assert trips.dataset(as_of=iso(31))["state"] == "ready"
    with trips.sessions() as session:
        row = trips.row(1)
        plan = plan_of(row, repository.get_spec(session, row.pipeline_id, row.spec_version))
    found: list[str] = []
    find_keys = source._Reader.find_keys

    def noted(reader: Any) -> None:
        found.append("keys")
        find_keys(reader)

    monkeypatch.setattr(source._Reader, "find_keys", noted)
    both = [tmp_path / "all", tmp_path / "window"]
    for folder, labels_per_row in zip(both, (source.LABELS_PER_ROW, 0), strict=True):
        folder.mkdir()
        monkeypatch.setattr(source, "LABELS_PER_ROW", labels_per_row)
        assert build(trips.sessions, trips.limits, plan, folder).manifest.digest == row.digest
        assert found == (["keys"] if labels_per_row == 0 else [])


def test_labels_are_resolved_once(trips: Service) -> None:
    with trips.sessions.begin() as session:
        fill(session, trips)
        marks = [session.scalar(text(f"select max(seq) from {table}")) for table in ("labels", "prediction_requests")]
    labels, predictions = marks

    def resolve(labels: int, predictions: int) -> int:
        resolve_labels(trips.sessions, trips.pipeline_id(), labels=labels, predictions=predictions, query_s=60)
        with trips.sessions.begin() as session:
            return session.scalar(text("select count(*) from resolved_labels")) or 0

    # In any order of watermarks, one behind the other, and again.
    assert resolve(labels, 0) == 0
    assert resolve(labels // 2, predictions // 2) == HISTORY_ROWS // 2
    assert resolve(0, 0) == HISTORY_ROWS // 2
    assert resolve(labels, predictions) == resolve(labels, predictions) == HISTORY_ROWS
    with trips.sessions.begin() as session:
        wrong = text("""
            select count(*) from resolved_labels x
            join labels l on l.seq = x.label_seq join prediction_requests r on r.seq = x.prediction_seq
            where r.request_id <> l.request_id or r.keys[l.row_index + 1] <> x.key
        """)
        assert session.scalar(wrong) == 0


SAID_OF_PREDICTIONS = """
    insert into labels (pipeline_id, request_id, row_index, label, label_time, available_at, source, source_rank,
        content_digest)
    select pipeline_id, request_id, 0, 1, requested_at, requested_at, 'explicit', 30, md5(request_id::text)
    from prediction_requests
"""
ROWS_READ = """
    select case when relname like 'prediction_requests%' then 'predictions' else relname end,
           sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int
    from pg_stat_xact_user_tables
    where relname in ('events', 'labels', 'resolved_labels') or relname like 'prediction_requests%'
    group by 1
"""
HISTORY = """
    create temporary table past on commit drop as
    select number, moment, gen_random_uuid() as request
    from (
        select number, timestamptz '2024-01-01 00:00Z'
            + case when number % 4 = 0 then interval '40 days' else interval '-9 years' end
            + number * interval '1 hour' / 10 as moment
        from generate_series(1, :rows) as g(number)
    ) as moments;
    insert into events (pipeline_id, key, event_time, available_at, content_digest, payload, spec_version)
    select :pipeline, 'past' || number, moment, '2015-01-01', md5(number::text), '{}', 1 from past;
    insert into labels (pipeline_id, key, label, label_time, available_at, source, source_rank, content_digest)
    select :pipeline, 'past' || number, 1, '2015-01-01', '2015-01-01', 'event', 20, md5('k' || number) from past;
    insert into prediction_requests (request_id, requested_at, pipeline_id, version_id, version_number, generation, pinned,
        keys, event_times, available_ats, instances, scores, latency_us, api_key_id, caller_request_id)
    select request, moment, :pipeline, gen_random_uuid(), 1, 1, false, array['other', 'asked' || number],
        array[moment, moment], array[moment, moment], '[{}, {}]', array[0.5, 0.5], 100, '0', ''
    from past;
    insert into labels (pipeline_id, request_id, row_index, label, label_time, available_at, source, source_rank,
        content_digest)
    select :pipeline, request, 1, 1, '2015-01-01', '2015-01-01', 'explicit', 30, md5('p' || number) from past
"""
