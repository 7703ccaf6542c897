"""The worker as a process: nudges through a real queue reach the use cases."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from services.validator.config import ValidatorSettings
from shared.contracts.tasks import TaskName
from shared.messaging import make_celery, publish
from shared.registry.states import ReleaseState, ValidationState
from shared.registry.tables import MonitoringWatermark, Validation
from tests.integration.validator.world import DAYS, START, World

DEADLINE_S = 90


@pytest.fixture
def worker(relevo_env: dict[str, str]) -> Iterator[None]:
    words = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "services.validator.worker",
        "worker",
        "-Q",
        "validate",
        "--pool",
        "solo",
    ]
    process = subprocess.Popen(
        words, env={**os.environ, **relevo_env, "RELEVO_SERVING_URL": "http://127.0.0.1:1"}, start_new_session=True
    )
    yield
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def test_nudges_reach_the_use_cases(world: World, settings: ValidatorSettings, worker: None) -> None:
    app = make_celery("test", settings)
    candidate = world.version()
    row = world.validation(candidate)
    world.log(candidate, ["a"], [START], [0.5])
    publish(app, TaskName.VALIDATE, row)
    eventually(lambda: world.get(Validation, row).state == ValidationState.PASSED)
    assert world.get(Validation, row).report["days"] == DAYS
    publish(app, TaskName.RELEASE, row)
    eventually(lambda: world.get(Validation, row).reason is not None)
    after: Validation = world.get(Validation, row)
    assert after.release_state == ReleaseState.PENDING
    assert after.reason is not None
    assert after.reason.startswith("Serving cannot be reached")
    publish(app, TaskName.MONITOR, world.pipeline_id)

    def read() -> bool:
        with world.sessions.begin() as session:
            return session.get(MonitoringWatermark, world.pipeline_id) is not None

    eventually(read)
