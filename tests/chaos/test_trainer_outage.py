"""PostgreSQL and the artifact store away from the trainer: no run fails of it, though a single attempt is allowed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from shared.registry.states import RunState
from shared.registry.tables import Run
from tests.chaos.trainer_processes import BACKGROUND, BRIEF, ENDLESS, WORKER, Trainer, all_well
from tests.integration.serving.proxy import Proxy, proxied
from tests.support.waiting import until


@pytest.fixture
def proxy(trainer: Trainer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between the trainer's processes and PostgreSQL; the test itself goes past it."""
    monkeypatch.setenv("RELEVO_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("RELEVO_LEASE_S", "6")
    with proxied(database_url) as (url, between):
        monkeypatch.setenv("DATABASE_URL", url)
        yield between


def now(trainer: Trainer) -> datetime:
    with trainer.rows.sessions.begin() as session:
        return session.execute(select(func.now())).scalar_one()


def test_a_training_outlasts_an_outage_of_the_database(trainer: Trainer, proxy: Proxy) -> None:
    trainer.rows.retune(trainer.pipeline, **ENDLESS)
    run = trainer.queue()
    background = trainer.start(*BACKGROUND)
    worker = trainer.start(*WORKER)
    until(lambda: trainer.trains(run, 1, 2), "it trains")
    proxy.cut()
    (child,) = worker.children()
    child.suspend()  # in the middle of a long epoch: only the worker speaks for the run
    ends = trainer.run(run).lease_until
    assert ends is not None
    until(lambda: now(trainer) > ends + timedelta(seconds=1), "the lease is over")
    assert "housekeeping waits" in background.log.read_text()
    proxy.mend()

    def heard() -> bool:
        row = trainer.run(run)
        return row.state != RunState.RUNNING or (row.lease_until or ends) > ends

    until(heard, "the worker extends its lease, or the sweeper ends it")
    child.resume()
    trainer.succeeded(run)
    assert (trainer.run(run).attempt, trainer.run(run).fence) == (1, 1), "the same training went on"
    assert trainer.oracle() == all_well(1)


def test_a_run_waits_for_the_artifact_store(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEVO_MAX_ATTEMPTS", "1")
    trainer.rows.retune(trainer.pipeline, **BRIEF)
    run = trainer.queue()
    store, elsewhere = tmp_path / "artifacts", tmp_path / "elsewhere"
    store.rename(elsewhere)
    store.write_text("a file where the folder was")
    trainer.start(*BACKGROUND)
    trainer.start(*WORKER)
    for fence in range(1, 4):
        until(
            lambda fence=fence: trainer.run(run).fence == fence and trainer.run(run).state != RunState.RUNNING,
            f"it was tried {fence} times\n{trainer.logs()}",
        )
        row = trainer.run(run)
        assert (row.state, row.attempt) == (RunState.QUEUED, 0), trainer.logs()
        assert row.reason is not None
        assert "It is tried again after" in row.reason
        if fence == 3:
            store.unlink()
            elsewhere.rename(store)
        trainer.rows.set(Run, run, lease_until=func.now() - timedelta(seconds=1))  # its wait is over
    trainer.succeeded(run)
    assert (trainer.run(run).attempt, trainer.run(run).reason) == (1, None)
    assert trainer.oracle() == all_well(1)
