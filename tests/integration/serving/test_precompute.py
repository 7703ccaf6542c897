"""The worker's side of offline predictions: one at a time, on schedule, through outages, never a wrong or damaged generation."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlmodel import select

from services.serving.config import ServingSettings
from services.serving.offline import scoring
from services.serving.offline.manifest import INDEX_FILE
from services.serving.offline.repository import current, lock_pipeline
from services.serving.offline.requests import MOST_QUEUED, request
from services.serving.offline.schedule import tick
from services.serving.tasks import precompute_row
from shared.artifacts import ArtifactStore
from shared.config import CommonSettings
from shared.errors import Conflict, StoreFull, Unavailable
from shared.jobs.lease import STOPPED, claim
from shared.jobs.sweeper import sweep
from shared.jobs.work import PRECOMPUTE
from shared.registry.session import Sessions
from shared.registry.tables import OutboxMessage, Pipeline, Precompute
from tests.integration.serving.conftest import Replica, sample, until
from tests.integration.serving.precomputing import add_dataset, add_event, answering, generations, rows, work
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import tiny_model


@pytest.fixture
def deployed(registry: Registry) -> Registry:
    """`delays` with a live version and one key seen."""
    registry.pipeline()
    registry.deploy(registry.version(tiny_model(0.25, weight=0.1)))
    add_event(registry, "one", carrier="UA")
    return registry


def ask(sessions: Sessions, source: dict[str, Any] | None = None) -> Precompute:
    with sessions.begin() as session:
        pipeline = session.exec(select(Pipeline)).one()
        return request(session, pipeline.id, source, "tester")


def row(sessions: Sessions, number: int) -> Precompute:
    with sessions.begin() as session:
        return next(found for found in generations(session) if found.number == number)


def test_one_of_a_pipeline_is_made_at_a_time_and_the_next_is_nudged(deployed: Registry, sessions: Sessions) -> None:
    first, second = ask(sessions), ask(sessions)
    lease = claim(sessions, PRECOMPUTE, first.id, lease_s=30, max_attempts=3)
    assert lease is not None
    precompute_row(second.id, sessions, deployed.store, CommonSettings(), ServingSettings())
    assert (row(sessions, 2).state, row(sessions, 2).attempt) == ("queued", 0)
    with sessions.begin() as session:
        session.execute(text("update precomputes set state = 'queued', lease_until = null where number = 1"))
        session.execute(text("delete from outbox"))
    precompute_row(first.id, sessions, deployed.store, CommonSettings(), ServingSettings())
    assert row(sessions, 1).state == "ready"
    with sessions.begin() as session:
        assert [message.row_id for message in session.exec(select(OutboxMessage))] == [second.id]
    work(sessions, deployed.store)
    assert row(sessions, 2).state == "ready"


def test_only_so_many_wait(deployed: Registry, sessions: Sessions) -> None:
    for _ in range(MOST_QUEUED):
        ask(sessions)
    with pytest.raises(Conflict, match="wait already"):
        ask(sessions)


def test_a_due_slot_asks_once_and_waits_for_what_is_open(registry: Registry, sessions: Sessions) -> None:
    registry.pipeline(offline={"schedule": "* * * * *", "after_promotion": False})
    add_event(registry, "one", carrier="UA")
    with sessions.begin() as session:
        session.execute(text("update spec_versions set created_at = now() - interval '5 minutes'"))
    assert tick(sessions) == 0, "nothing is live that could score"
    registry.deploy(registry.version(tiny_model(0.25)))
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(tick, [sessions] * 4)) == 1
    made = row(sessions, 1)
    assert (made.trigger, made.requested_by, made.source) == ("schedule", "schedule", {"keys_seen": {}})
    assert made.slot is not None
    assert tick(sessions) == 0, "one is open"
    work(sessions, registry.store)
    assert row(sessions, 1).state == "ready"
    with sessions.begin() as session:
        session.execute(text("update precomputes set slot = slot - interval '2 minutes'"))
    assert tick(sessions) == 1, "the next slot is due"
    registry.respec(offline={"schedule": "0 0 1 1 *"})
    work(sessions, registry.store)
    assert tick(sessions) == 0, "a new schedule catches up nothing from before it"


class Troubled:
    """A store that fails when files are put."""

    def __init__(self, store: ArtifactStore, error: Exception) -> None:
        self._store, self._error = store, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_file(self, path: Path) -> str:
        raise self._error


@pytest.mark.parametrize(
    ("error", "attempt"),
    [(Unavailable("the store is away"), 0), (StoreFull("the disk is full"), 1), (OSError("disk"), 1)],
)
def test_a_store_in_trouble_gives_the_work_back(
    deployed: Registry, sessions: Sessions, error: Exception, attempt: int
) -> None:
    asked = ask(sessions)
    store: Any = Troubled(deployed.store, error)
    precompute_row(asked.id, sessions, store, CommonSettings(), ServingSettings())
    given_back = row(sessions, 1)
    assert (given_back.state, given_back.attempt) == ("queued", attempt)
    assert "It is tried again after 10 s" in (given_back.reason or "")
    with sessions.begin() as session:
        session.execute(text("update precomputes set lease_until = now() - interval '1 second'"))
        assert sweep(session, max_attempts=3, renudge_after_s=60) == 1
    work(sessions, deployed.store)
    assert (row(sessions, 1).state, row(sessions, 1).reason) == ("ready", None)


def test_asked_to_stop_it_hands_its_work_over(
    deployed: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, stopping = ask(sessions), threading.Event()
    real = scoring.score

    def stop_then_score(*args: Any, **options: Any) -> Any:
        stopping.set()
        return real(*args, **options)

    monkeypatch.setattr(scoring, "score", stop_then_score)
    precompute_row(asked.id, sessions, deployed.store, CommonSettings(), ServingSettings(), stopping=stopping)
    handed_over = row(sessions, 1)
    assert (handed_over.state, handed_over.attempt, handed_over.reason) == ("queued", 0, STOPPED)
    work(sessions, deployed.store)
    assert row(sessions, 1).state == "ready"


def test_who_lost_the_lease_writes_nothing(
    deployed: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(sessions)
    real = scoring.score

    def lose_then_score(*args: Any, **options: Any) -> Any:
        with sessions.begin() as session:
            session.execute(text("update precomputes set fence = fence + 1"))
        return real(*args, **options)

    monkeypatch.setattr(scoring, "score", lose_then_score)
    precompute_row(asked.id, sessions, deployed.store, CommonSettings(), ServingSettings())
    lost = row(sessions, 1)
    assert (lost.state, lost.digest, lost.reason) == ("running", None, None)


def test_scores_that_online_does_not_give_fail_the_generation_by_key(
    deployed: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = {path for path in Path(deployed.store._root).rglob("*") if path.is_file()}  # type: ignore[attr-defined]
    real = scoring.score
    monkeypatch.setattr(scoring, "score", lambda *args, **options: real(*args, **options) + np.float32(2e-6))
    asked = ask(sessions)
    precompute_row(asked.id, sessions, deployed.store, CommonSettings(), ServingSettings())
    failed = row(sessions, 1)
    assert failed.state == "failed"
    assert "Version 1 gives 1 of 1 rows another score offline than online: 'one' (0.25000" in (failed.reason or "")
    left = {path for path in Path(deployed.store._root).rglob("*") if path.is_file()}  # type: ignore[attr-defined]
    assert left == artifacts, "no file of it is left"


async def test_a_damaged_generation_never_answers_and_the_next_whole_one_does(
    deployed: Registry, replica: Replica, tmp_path: Path
) -> None:
    sessions = replica.sessions
    add_dataset(deployed, tmp_path, rows(50), rows(1, "T"))
    ask(sessions, {"dataset": "latest"})
    work(sessions, deployed.store)
    await answering(replica, 1)

    real, damaged = type(deployed.store).put_file, threading.Event()

    def put_then_damage(store: Any, path: Path) -> str:
        digest: str = real(store, path)
        if path.name == INDEX_FILE:
            stored = store.fetch(digest, tmp_path)
            stored.chmod(0o600)
            stored.write_bytes(stored.read_bytes()[:-1] + b"x")
            damaged.set()
        return digest

    failures = sample("relevo_serving_offline_load_failures_total", model="delays")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(deployed.store), "put_file", put_then_damage)
        ask(sessions, {"dataset": "latest"})
        work(sessions, deployed.store)
    assert damaged.is_set()
    assert row(sessions, 2).state == "ready"
    await until(
        lambda: sample("relevo_serving_offline_load_failures_total", model="delays") > failures, "the damage is noticed"
    )
    answer = await replica.client.get("/v1/models/delays/predictions/F-1")
    assert (answer.status_code, answer.json()["generation"]) == (200, 1)
    ask(sessions, {"dataset": "latest"})
    work(sessions, deployed.store)
    await answering(replica, 3)


def test_the_last_attempt_fails_for_good(deployed: Registry, sessions: Sessions) -> None:
    asked = ask(sessions)
    lease = claim(sessions, PRECOMPUTE, asked.id, lease_s=30, max_attempts=1)
    assert lease is not None
    with sessions.begin() as session:
        session.execute(text("update precomputes set lease_until = now() - interval '1 second'"))
        sweep(session, max_attempts=1, renudge_after_s=60)
    failed = row(sessions, 1)
    assert failed.state == "failed"
    assert "Its worker died 1 times" in (failed.reason or "")


def test_a_promotion_waits_for_no_append(deployed: Registry, sessions: Sessions) -> None:
    """Rows that refer to the pipeline are being stored: numbering a generation meanwhile waits for none of them."""
    with sessions() as appending:
        pipeline = appending.exec(select(Pipeline)).one()
        appending.execute(
            text("select from pipelines where id = :id for key share"), {"id": pipeline.id}
        )  # what a foreign key takes
        with sessions.begin() as session:
            session.execute(text("set local lock_timeout = '2s'"))
            assert lock_pipeline(session, pipeline.id).name == "delays"


def test_the_newest_asked_for_answers_whatever_ends_first(deployed: Registry, sessions: Sessions) -> None:
    first, second = ask(sessions), ask(sessions)
    for asked in (second, first):
        precompute_row(asked.id, sessions, deployed.store, CommonSettings(), ServingSettings())
    with sessions.begin() as session:
        assert [offline.number for offline in current(session).values()] == [2]
    assert row(sessions, 1).computed_at - row(sessions, 2).computed_at > timedelta(0)  # type: ignore[operator]
