"""Workers that are killed, frozen and doubled: each run ends exactly once, with one version when it succeeded."""

import random
import signal
import time

import pytest
from sqlalchemy import text

from shared.registry.states import CycleState, RunState
from shared.registry.tables import Cycle
from tests.chaos.trainer_processes import BACKGROUND, BRIEF, ENDLESS, WORKER, Group, Trainer, all_well
from tests.support.waiting import DEADLINE_S, until

KILLS, SEED = 5, 11


def test_a_worker_group_killed_five_times_in_mid_run(trainer: Trainer) -> None:
    chance = random.Random(SEED)
    trainer.rows.retune(trainer.pipeline, **ENDLESS)  # no attempt is faster than its killer
    run = trainer.queue()
    trainer.start(*BACKGROUND)
    for kill in range(1, KILLS + 1):
        worker = trainer.start(*WORKER)
        epochs = chance.choice([0, 1, 2, chance.randint(3, 15)])  # 0: claimed just now
        until(lambda attempt=kill, epochs=epochs: trainer.trains(run, attempt, epochs), f"attempt {kill} trains")
        time.sleep(chance.random() * 0.2)
        worker.kill()
    trainer.rows.retune(trainer.pipeline, **BRIEF)
    trainer.start(*WORKER)
    trainer.succeeded(run)
    row = trainer.run(run)
    assert row.attempt == row.fence > KILLS
    assert row.reason is None
    assert trainer.oracle() == all_well(1)


def test_redeploys_in_the_middle_of_a_run_cost_no_attempt(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEVO_MAX_ATTEMPTS", "1")
    trainer.rows.retune(trainer.pipeline, **ENDLESS)
    run = trainer.queue()
    trainer.start(*BACKGROUND)
    for fence in range(1, 5):
        worker = trainer.start(*WORKER)
        until(
            lambda fence=fence: trainer.run(run).fence == fence and trainer.trains(run, 1, 2), f"worker {fence} trains"
        )
        if fence % 2:
            worker.process.terminate()  # as in a container
        else:
            worker.signal(signal.SIGTERM)  # as from a terminal
        assert worker.process.wait(DEADLINE_S) == 0, trainer.logs()
        row = trainer.run(run)
        assert (row.state, row.attempt, row.fence) == (RunState.QUEUED, 0, fence), f"{row.reason}\n{trainer.logs()}"
    trainer.rows.retune(trainer.pipeline, **BRIEF)
    trainer.start(*WORKER)
    trainer.succeeded(run)
    assert (trainer.run(run).attempt, trainer.run(run).reason) == (1, None)
    assert trainer.oracle() == all_well(1)


def freeze(trainer: Trainer, worker: Group) -> None:
    """Stop the group, but not in the middle of a transaction: its row lock would hide the row from the sweeper for two minutes."""
    query = text(
        "select count(*) filter (where state = 'active'), count(*) filter (where state like 'idle in%')"
        " from pg_stat_activity where datname = current_database()"
        " and application_name in ('relevo-training', 'relevo-trainer-worker')"
    )
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < deadline, "never stopped between two transactions"
        worker.signal(signal.SIGSTOP)
        busy, inside = 1, 0
        while busy:
            with trainer.rows.sessions.begin() as session:
                busy, inside = session.execute(query).one()
        if not inside:
            return
        worker.signal(signal.SIGCONT)


def test_a_killed_training_process_and_then_a_frozen_worker(trainer: Trainer) -> None:
    trainer.rows.retune(trainer.pipeline, **ENDLESS)
    run = trainer.queue()
    trainer.start(*BACKGROUND)
    worker = trainer.start(*WORKER)
    until(lambda: trainer.trains(run, 1, 2), "it trains")
    (child,) = worker.children()
    child.kill()
    until(lambda: trainer.trains(run, 2, 2), "the same worker tries again")
    assert worker.process.poll() is None

    freeze(trainer, worker)
    trainer.rows.retune(trainer.pipeline, **BRIEF)
    trainer.start(*WORKER)
    trainer.succeeded(run)
    before = trainer.run(run)
    assert before.fence > 2
    assert before.reason is None
    worker.signal(signal.SIGCONT)
    until(lambda: not worker.children(), "the zombie's training has stopped")
    until(lambda: any(how in worker.log.read_text() for how in ("lease-lost", "recorded")), "it knows that it lost")
    assert trainer.run(run) == before, "and wrote nothing"
    assert trainer.oracle() == all_well(1)


def test_two_schedulers_start_a_slot_once(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEVO_SWEEP_S", "0.05")
    rounds, rows = 10, trainer.rows
    with rows.sessions.begin() as session:
        session.execute(
            text(
                "update spec_versions set created_at = now() - interval '3 days',"
                ' spec = (spec::jsonb || \'{"schedule": "* * * * *"}\')::json'
            )
        )
    processes = [trainer.start(*BACKGROUND) for _ in range(2)]
    until(lambda: all("started" in process.log.read_text() for process in processes), "both run")
    for number in range(1, rounds + 1):
        until(lambda many=number: len(rows.all(Cycle)) >= many, f"cycle {number}\n{trainer.logs()}")
        cycles = rows.all(Cycle)
        assert len(cycles) == number
        assert {cycle.trigger for cycle in cycles} == {"schedule"}
        if number < rounds:
            with rows.sessions.begin() as session:  # at once: the same slot is due anew for both of them
                session.execute(text("update cycles set state = :state"), {"state": CycleState.RELEASED})
                session.execute(text("delete from schedule_slots"))
    assert all(process.process.poll() is None for process in processes)


@pytest.mark.slow
def test_twenty_runs_under_a_hundred_random_kills(trainer: Trainer) -> None:
    """Kills at any moment: while starting, claiming, reading, training, storing, between two runs."""
    chance = random.Random(SEED)
    trainer.rows.retune(trainer.pipeline, epochs=20, patience=20)
    runs = [trainer.queue() for _ in range(20)]
    trainer.start(*BACKGROUND)
    kills = 0
    while kills < 100 and trainer.oracle()["open"]:
        worker = trainer.start(*WORKER)
        time.sleep(chance.uniform(1, 15))
        worker.kill()
        kills += 1
    trainer.start(*WORKER)
    for run in runs:
        until(lambda run=run: trainer.run(run).finished_at is not None, f"{run} ends", deadline_s=600)
    assert {trainer.run(run).state for run in runs} == {RunState.SUCCEEDED}
    assert trainer.oracle() == all_well(20)
