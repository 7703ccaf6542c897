"""The shipper's process may die at any time: it is started again, and each prediction is in the registry once."""

import contextlib

import psutil

from tests.integration.serving.conftest import Replica, flight, sample, until
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import tiny_model


def shippers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "services.serving.prediction_log.ship" in child.cmdline():
                found.append(child)
    return found


async def test_a_killed_shipper_is_started_again_and_nothing_is_lost_or_doubled(
    registry: Registry, replica: Replica
) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    failures = sample("relevo_serving_ship_failures_total")
    for round_ in range(3):
        (process,) = shippers()
        for number in range(20):
            assert (await replica.predict(flight(20 * round_ + number))).status_code == 200
        process.kill()
        await until(lambda gone=process.pid: [one.pid for one in shippers()] not in ([], [gone]), "another shipper")
    keys = [row.key for row in await replica.shipped(60)]
    assert len(keys) == len(set(keys)) == 60
    assert sample("relevo_serving_ship_failures_total") >= failures + 3


async def test_a_signal_to_all_processes_leaves_the_shipper_to_serving(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.25))
    await replica.promote(1)
    (process,) = shippers()
    process.terminate()
    assert (await replica.predict(flight(1))).status_code == 200
    await replica.shipped(1)
    assert shippers() == [process]


async def test_the_shipper_runs_at_low_priority(replica: Replica) -> None:
    (process,) = shippers()
    await until(lambda: process.nice() > 0, "the shipper's own priority")
