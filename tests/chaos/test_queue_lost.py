"""The queue is emptied, killed and started again: what waits in the registry is done all the same."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import ports
from shared.contracts.tasks import Queue
from shared.jobs import outbox
from shared.messaging import KEY_PREFIX
from shared.registry.states import RunState
from tests.chaos.trainer_processes import BACKGROUND, BRIEF, WORKER, Trainer, all_well
from tests.support.broker import Broker
from tests.support.waiting import until


@pytest.fixture
def broker(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    running = Broker(tmp_path / "valkey", next(ports.free_ports(avoid=())))
    monkeypatch.setenv("REDIS_URL", running.url)
    yield running
    running.close()


def test_an_emptied_and_a_killed_queue_lose_no_work(trainer: Trainer, broker: Broker) -> None:
    trainer.rows.retune(trainer.pipeline, **BRIEF)
    background = trainer.start(*BACKGROUND)
    runs = [trainer.queue() for _ in range(2)]
    queue = KEY_PREFIX + Queue.TRAIN
    until(lambda: broker.client.llen(queue) >= len(runs), "all nudges lie in the queue")
    broker.client.flushall()
    worker = trainer.start(*WORKER)
    until(lambda: any(trainer.run(run).state == RunState.SUCCEEDED for run in runs), "the first run ends")
    broker.client.flushall()
    for run in runs:
        trainer.succeeded(run)

    broker.stop(signal.SIGKILL)
    late = trainer.queue()
    with trainer.rows.sessions.begin() as session:
        until(lambda: outbox.pending(session), "its nudge waits in the outbox")
    broker.start()
    trainer.succeeded(late)
    assert (worker.process.poll(), background.process.poll()) == (None, None), "the same processes"
    assert trainer.oracle() == all_well(3)
