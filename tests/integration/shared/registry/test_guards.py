"""What the database itself refuses, whoever asks, and what it keeps of predictions."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from shared.registry.session import Sessions
from shared.registry.states import Decision, ValidationState
from shared.registry.tables import Deployment, DeploymentChange, ModelVersion, PredictionRequest, Validation
from tests.support.rows import AS_OF, Rows


@pytest.fixture
def rows(sessions: Sessions) -> Rows:
    return Rows(sessions)


@pytest.fixture
def pipeline(rows: Rows) -> uuid.UUID:
    return rows.pipeline()


def deploy(rows: Rows, pipeline: uuid.UUID, version: uuid.UUID, generation: int, **values: Any) -> None:
    with rows.sessions.begin() as session:
        row = session.get(Deployment, pipeline) or Deployment(
            pipeline_id=pipeline, generation=0, live_version_id=version, updated_at=AS_OF
        )
        row.live_version_id, row.generation, row.override = version, generation, values.get("override")
        session.add(row)


@pytest.mark.parametrize("decision", [None, Decision.HOLD, Decision.REJECT])
def test_no_version_goes_live_without_a_verdict_that_promotes_it(
    rows: Rows, pipeline: uuid.UUID, decision: Decision | None
) -> None:
    version = rows.version(pipeline)
    if decision is not None:
        rows.validation(pipeline, version, state=ValidationState.PASSED, decision=decision)
    for override in (None, ""):
        with pytest.raises(IntegrityError, match="has no verdict that promotes it"):
            deploy(rows, pipeline, version, 1, override=override)
    assert rows.all(Deployment) == []
    deploy(rows, pipeline, version, 1, override="ana: the incident of today")
    assert rows.get(Deployment, pipeline).live_version_id == version


def test_a_verdict_counts_for_its_own_version_only(rows: Rows, pipeline: uuid.UUID) -> None:
    judged, other = rows.version(pipeline), rows.version(pipeline)
    rows.validation(pipeline, judged, state=ValidationState.PASSED, decision=Decision.PROMOTE)
    deploy(rows, pipeline, judged, 1)
    with pytest.raises(IntegrityError, match="has no verdict"):
        deploy(rows, pipeline, other, 2)
    assert rows.get(Deployment, pipeline).live_version_id == judged


def test_the_newest_verdict_of_a_version_counts(rows: Rows, pipeline: uuid.UUID) -> None:
    version, other = rows.version(pipeline), rows.version(pipeline)
    judged = {"state": ValidationState.PASSED}
    rows.validation(pipeline, version, **judged, decision=Decision.PROMOTE, finished_at=AS_OF)
    deploy(rows, pipeline, version, 1)
    # A comparison that only informs is no verdict; nor is one that is still to come, or of another version.
    rows.validation(pipeline, version, **judged, finished_at=AS_OF + timedelta(days=1))
    rows.validation(pipeline, version)
    rows.validation(pipeline, other, **judged, decision=Decision.REJECT, finished_at=AS_OF + timedelta(days=1))
    deploy(rows, pipeline, version, 2)
    newer = rows.validation(pipeline, version, **judged, decision=Decision.HOLD, finished_at=AS_OF + timedelta(days=2))
    with pytest.raises(IntegrityError, match="or a newer one that does not"):
        deploy(rows, pipeline, version, 3)
    deploy(rows, pipeline, version, 3, override="ana: the incident of today")
    rows.set(Validation, newer, decision=Decision.PROMOTE, decided_at=AS_OF + timedelta(days=3))
    deploy(rows, pipeline, version, 4)
    # Begun earlier and ended later.
    rows.validation(pipeline, version, **judged, decision=Decision.REJECT, finished_at=AS_OF + timedelta(days=2.5))
    deploy(rows, pipeline, version, 5)


def with_canary(rows: Rows, pipeline: uuid.UUID, **values: Any) -> None:
    with rows.sessions.begin() as session:
        row = session.get_one(Deployment, pipeline)
        row.generation += 1
        for name, value in values.items():
            setattr(row, name, value)


def test_a_canary_needs_what_a_live_version_needs(rows: Rows, pipeline: uuid.UUID) -> None:
    live, canary, other = (rows.version(pipeline) for _ in range(3))
    judged = {"state": ValidationState.PASSED}
    rows.validation(pipeline, live, **judged, decision=Decision.PROMOTE, finished_at=AS_OF)
    deploy(rows, pipeline, live, 1)
    share = {"canary_version_id": canary, "canary_weight": 0.25}
    with pytest.raises(IntegrityError, match=f"canary {canary} has no verdict"):
        with_canary(rows, pipeline, **share)
    with_canary(rows, pipeline, **share, canary_override="ana: one plane, one day")
    with_canary(rows, pipeline, canary_weight=0.5)
    with pytest.raises(IntegrityError, match="no verdict"):
        with_canary(rows, pipeline, canary_override=None)
    with pytest.raises(IntegrityError, match="no verdict"):
        with_canary(rows, pipeline, canary_version_id=other, canary_override="")
    rows.validation(pipeline, canary, **judged, decision=Decision.PROMOTE, finished_at=AS_OF)
    with_canary(rows, pipeline, canary_override=None)
    # Rejected since, neither of the two may gain anything; what it has may shrink and end.
    for version in (live, canary):
        rows.validation(pipeline, version, **judged, decision=Decision.REJECT, finished_at=AS_OF + timedelta(days=1))
    with pytest.raises(IntegrityError, match="no verdict"):
        with_canary(rows, pipeline, canary_weight=0.75)
    with_canary(rows, pipeline, canary_weight=0.125)
    with pytest.raises(IntegrityError, match="no verdict"):
        deploy(rows, pipeline, canary, rows.get(Deployment, pipeline).generation + 1)
    with_canary(rows, pipeline, shadow_version_id=other, shadow_sample=1.0)
    with_canary(rows, pipeline, canary_version_id=None, canary_weight=None)


@pytest.mark.parametrize(
    "values",
    [
        {"canary_weight": 0.5},
        {"canary_version_id": "other"},
        {"canary_version_id": "other", "canary_weight": 0.0},
        {"canary_version_id": "other", "canary_weight": 1.5},
        {"canary_version_id": "live", "canary_weight": 0.5},
        {"shadow_version_id": "other"},
        {"shadow_version_id": "other", "shadow_sample": -0.5},
        {"shadow_version_id": "live", "shadow_sample": 0.5},
    ],
)
def test_a_version_beside_the_live_one_is_another_and_has_a_share(
    rows: Rows, pipeline: uuid.UUID, values: dict[str, Any]
) -> None:
    versions = {name: rows.version(pipeline) for name in ("live", "other")}
    for version in versions.values():
        rows.validation(pipeline, version, state=ValidationState.PASSED, decision=Decision.PROMOTE)
    deploy(rows, pipeline, versions["live"], 1)
    with pytest.raises(IntegrityError, match="deployments_"):
        with_canary(rows, pipeline, **{name: versions.get(value, value) for name, value in values.items()})


def test_a_generation_only_grows(rows: Rows, pipeline: uuid.UUID) -> None:
    version = rows.version(pipeline)
    rows.validation(pipeline, version, state=ValidationState.PASSED, decision=Decision.PROMOTE)
    deploy(rows, pipeline, version, 5)
    for generation in (4, 5):
        with pytest.raises(IntegrityError, match="only grows"), rows.sessions.begin() as session:
            session.execute(text("update deployments set generation = :to"), {"to": generation})
    deploy(rows, pipeline, version, 6)


@pytest.mark.parametrize(
    "change",
    [
        "update deployment_history set reason = 'else'",
        "delete from deployment_history",
        "truncate deployment_history",
        "truncate versions cascade",
    ],
)
def test_history_is_append_only(rows: Rows, pipeline: uuid.UUID, change: str) -> None:
    version = rows.version(pipeline)
    with rows.sessions.begin() as session:
        session.add(
            DeploymentChange(
                pipeline_id=pipeline, generation=1, action="promote", version_id=version, actor="ana", reason="first"
            )
        )
    with pytest.raises(IntegrityError, match="append-only"), rows.sessions.begin() as session:
        session.execute(text(change))
    assert [row.reason for row in rows.all(DeploymentChange)] == ["first"]


def test_one_version_for_each_run_and_number(rows: Rows, pipeline: uuid.UUID) -> None:
    version: ModelVersion = rows.get(ModelVersion, rows.version(pipeline))
    with pytest.raises(IntegrityError, match="run_id"):
        rows.version(pipeline, version.run_id)
    other = rows.version(pipeline)
    with pytest.raises(IntegrityError, match="versions_pipeline_number"):
        rows.set(ModelVersion, other, number=version.number)


def log(rows: Rows, pipeline: uuid.UUID, moment: datetime, keys: list[str]) -> uuid.UUID:
    row = PredictionRequest(
        request_id=uuid.uuid4(),
        requested_at=moment,
        pipeline_id=pipeline,
        version_id=rows.version(pipeline),
        version_number=3,
        generation=2,
        pinned=False,
        keys=keys,
        event_times=[AS_OF + timedelta(hours=index) for index in range(len(keys))],
        available_ats=[AS_OF] * len(keys),
        instances=[{"size": index} for index in range(len(keys))],
        scores=[index / 10 for index in range(len(keys))],
        latency_us=100,
        api_key_id="0123456789ab",
    )
    with rows.sessions.begin() as session:
        session.add(row)
    return row.request_id


def partition_of(rows: Rows, request: uuid.UUID) -> str:
    with rows.sessions.begin() as session:
        query = text("select tableoid::regclass::text from prediction_requests where request_id = :id")
        return str(session.scalar(query, {"id": request}))


def ensure(rows: Rows, moment: datetime) -> str:
    with rows.sessions.begin() as session:
        return str(session.scalar(select(func.ensure_prediction_partition(moment))))


def test_a_prediction_is_a_row_of_the_view(rows: Rows, pipeline: uuid.UUID) -> None:
    request = log(rows, pipeline, datetime.now(UTC), ["a", "b", "c"])
    with rows.sessions.begin() as session:
        found = session.execute(text("select * from predictions order by row_index")).mappings().all()
    assert [
        (row["request_id"], row["row_index"], row["key"], row["score"], row["instance"], row["event_time"])
        for row in found
    ] == [
        (request, index, key, index / 10, {"size": index}, AS_OF + timedelta(hours=index))
        for index, key in enumerate("abc")
    ]
    assert {(row["pipeline_id"], row["version_number"], row["generation"], row["pinned"]) for row in found} == {
        (pipeline, 3, 2, False)
    }


def test_months_have_partitions(rows: Rows, pipeline: uuid.UUID) -> None:
    new = datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert ensure(rows, new) == "prediction_requests_2031_12"
    assert ensure(rows, new.replace(day=1)) == "prediction_requests_2031_12", "there already"
    assert partition_of(rows, log(rows, pipeline, new, ["a"])) == "prediction_requests_2031_12"
    assert partition_of(rows, log(rows, pipeline, new + timedelta(seconds=1), ["a"])) == "prediction_requests_default"
    now = datetime.now(UTC)
    assert partition_of(rows, log(rows, pipeline, now, ["a"])) == f"prediction_requests_{now:%Y_%m}"


def test_a_month_whose_rows_came_before_its_partition_keeps_them(rows: Rows, pipeline: uuid.UUID) -> None:
    early = datetime(2032, 5, 10, tzinfo=UTC)
    request = log(rows, pipeline, early, ["a"])
    assert ensure(rows, early) == "prediction_requests_2032_05"
    assert partition_of(rows, request) == "prediction_requests_default"
    assert ensure(rows, early.replace(month=6)) == "prediction_requests_2032_06", "later months are not hindered"
    later = log(rows, pipeline, early, ["b"])
    assert partition_of(rows, later) == "prediction_requests_default"
    with rows.sessions.begin() as session:
        assert session.scalar(text("select count(*) from predictions")) == 2
