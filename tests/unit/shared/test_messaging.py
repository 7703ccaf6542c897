"""Celery's settings, and publishing to a queue that is away."""

import socket
import uuid

import pytest
from pydantic import SecretStr

from shared.config import CommonSettings
from shared.contracts.tasks import Queue, TaskName
from shared.errors import Unavailable
from shared.messaging import make_celery, publish


def settings(port: int) -> CommonSettings:
    return CommonSettings(
        database_url=SecretStr("postgresql://relevo:pw@127.0.0.1:1/relevo"),
        redis_url=SecretStr(f"redis://:pw@127.0.0.1:{port}/0"),
        prediction_secret=SecretStr("0123456789abcdef" * 2),
        service_key=SecretStr("rlv_0123456789ab_" + "s" * 43),
    )


@pytest.fixture
def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_messages_are_nudges() -> None:
    conf = make_celery("test", settings(1)).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result
    assert not conf.task_acks_late
    assert not conf.worker_enable_remote_control
    assert conf.worker_prefetch_multiplier == conf.worker_concurrency == 1


def test_every_queue_is_known_and_no_other_is_made() -> None:
    app = make_celery("test", settings(1))
    assert set(app.amqp.queues) == {queue.value for queue in Queue}
    for queue in Queue:
        assert app.amqp.queues[queue.value].routing_key == queue.value
    assert not app.conf.task_create_missing_queues


def test_publishing_where_nobody_listens_fails_at_once(free_port: int) -> None:
    app = make_celery("test", settings(free_port))
    for _ in range(2):  # the pooled connection must not be spoilt by the first failure
        with pytest.raises(Unavailable, match="kept and sent later"):
            publish(app, TaskName.TRAIN, uuid.uuid4(), "req-1")


def test_publishing_to_a_server_that_never_answers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.messaging.SOCKET_TIMEOUT_S", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        app = make_celery("test", settings(mute.getsockname()[1]))
        with pytest.raises(Unavailable):
            publish(app, TaskName.TRAIN, uuid.uuid4(), "req-1")


def test_two_applications_do_not_mix() -> None:
    first, second = make_celery("first", settings(1)), make_celery("second", settings(2))
    assert first.conf.broker_url != second.conf.broker_url
    assert first.Worker is not second.Worker
