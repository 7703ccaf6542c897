"""A shadow scores what the live version answered, for comparison alone: whatever it does, answers stay as they are."""

import os
import signal
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import spox.opset.ai.onnx.v21 as op
from prometheus_client import REGISTRY
from spox import Tensor, argument

from services.serving.models.catalogue import Share
from services.serving.models.policy import Applied
from services.serving.shadow.store import ComparisonStore
from shared.registry.session import Sessions
from tests.integration.serving.conftest import Replica, flight, running, sample, until
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import SPEC, finish, tiny_model


@pytest.fixture
def versions(registry: Registry) -> Registry:
    """Version n of `delays` answers n/8."""
    registry.pipeline()
    for number in (1, 2, 3):
        registry.version(tiny_model(number / 8))
    return registry


def shed(outcome: str) -> float:
    return sample("relevo_serving_shadow_requests_total", model="delays", outcome=outcome)


async def asked(replica: Replica, count: int, **fields: Any) -> None:
    for number in range(count):
        answer = await replica.predict(flight(number, carrier="UA", **fields), flight(1000 + number, carrier="AA"))
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == 1
        assert [row["score"] for row in answer.json()["predictions"]] == [0.125, 0.25]


async def summary(replica: Replica, **query: Any) -> dict[str, Any]:
    answer = await replica.client.get("/admin/models/delays/shadow", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def compared(replica: Replica, requests: int) -> dict[str, Any]:
    async def there() -> bool:
        return bool((await summary(replica))["requests"] >= requests)

    await until(there, f"{requests} comparisons in the registry")
    return await summary(replica)


async def test_what_the_shadow_would_have_answered(versions: Registry, replica: Replica, sessions: Sessions) -> None:
    await replica.promote(1)
    unjudged = versions.version(tiny_model(0.375, weight=0.25), verdict=None)  # it answers nobody, so nobody judged it
    begun = await replica.shadow(unjudged, sample=1.0, expected_generation=1)
    assert begun.status_code == 200, begun.text
    assert begun.json() == {
        "model": "delays", "live_version": 1, "generation": 2, "previous_version": None, "canary": None,
        "shadow": {"version": 4, "share": 1.0}, "changed": True, "applied": True,
    }  # fmt: skip
    assert (await replica.shadow(unjudged, sample=1.0, expected_generation=1)).json()["changed"] is False
    before = shed("compared")
    await asked(replica, 10, distance=1000)
    found = await compared(replica, 10)
    # Of the first rows 0.125 and 0.375 + 0.25, of the second 0.25 and 0.375 + 0.125 + 0.25 * 0.5.
    assert (found["version"], found["requests"], found["rows"]) == (4, 10, 20)
    assert found["delta"] == pytest.approx(
        {"mean": 0.4375, "mean_abs": 0.4375, "p50_abs": 0.4375, "p90_abs": 0.5, "p99_abs": 0.5, "max_abs": 0.5}
    )
    assert found["disagreement"] == {"threshold": 0.5, "share": 1.0}
    assert (await summary(replica, threshold=0.2))["disagreement"] == {"threshold": 0.2, "share": 0.5}
    assert found["run"]["shadow_us"] > 0
    assert found["run"]["live_us"] > 0
    assert (await summary(replica, live=2))["requests"] == 0
    assert shed("compared") == before + 10
    assert REGISTRY.get_sample_value("relevo_serving_shadow_delta_count", {"model": "delays"})
    assert sample("relevo_serving_shadow_version", model="delays") == 4
    assert len(await replica.shipped(20)) == 20, "the log knows nothing of a shadow"
    ended = (await replica.shadow(None)).json()
    assert (ended["shadow"], ended["generation"]) == (None, 3)
    none = await replica.client.get("/admin/models/delays/shadow")
    assert (none.status_code, none.json()["type"]) == (404, "urn:relevo:problem:not-found")
    assert (await summary(replica, version=4))["requests"] == 10
    url = sessions.kw["bind"].url.set(drivername="postgresql").render_as_string(hide_password=False)
    for keep, left in ((timedelta(days=1), 10), (timedelta(0), 0)):
        store = ComparisonStore(url, keep=keep)
        store.prune()
        store.close()
        assert (await summary(replica, version=4))["requests"] == left
    last, begin, _ = (await replica.client.get("/admin/models/delays/history")).json()["items"]
    assert (last["action"], last["shadow"], begin["shadow"]) == ("shadow", None, {"version": 4, "share": 1.0})


async def test_only_what_the_live_version_answers_is_compared_and_only_a_sample(
    versions: Registry, replica: Replica
) -> None:
    await replica.promote(1)
    await replica.shadow(2, sample=0.5)
    await replica.canary(3, weight=1.0)
    before = {outcome: shed(outcome) for outcome in ("compared", "busy", "full")}
    for number in range(20):
        assert (await replica.predict(flight(number))).json()["model_version"] == 3
        await replica.predict(flight(number), version=2)
    await replica.canary(None)
    await asked(replica, 60)
    await compared(replica, 1)
    await replica.shadow(2, sample=1.0)
    await asked(replica, 1)

    def counted() -> int:
        return round(sum(shed(outcome) - value for outcome, value in before.items()))

    # The last one is in every sample, and they are compared in order.
    assert 12 <= (await compared(replica, 12))["requests"] <= 50
    await until(lambda: counted() >= 12, "the counts are told")
    assert counted() <= 50


async def test_promoting_the_shadow_ends_it_and_other_changes_leave_it(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    await replica.shadow(2, sample=0.25)
    assert (await replica.canary(3, weight=0.5)).json()["shadow"] == {"version": 2, "share": 0.25}
    assert replica.serving.slots.applied("delays") == Applied(3, 1, Share(3, 0.5), Share(2, 0.25))
    assert (await replica.promote(3)).json()["shadow"] == {"version": 2, "share": 0.25}
    assert (await replica.roll_back()).json()["shadow"] == {"version": 2, "share": 0.25}
    promoted = (await replica.promote(2)).json()
    assert (promoted["live_version"], promoted["shadow"]) == (2, None)


async def test_orders_that_cannot_be_followed(versions: Registry, replica: Replica) -> None:
    assert (await replica.shadow(2, sample=0.5)).json()["type"] == "urn:relevo:problem:nothing-deployed"
    await replica.promote(1)
    broken = versions.version(b"damaged")
    for order, status, kind in (
        ({"version": broken, "sample": 0.5}, 409, "not-loadable"),
        ({"version": 1, "sample": 0.5}, 422, "invalid"),
        ({"version": 2}, 422, "invalid"),
        ({"version": 2, "sample": -1}, 422, "invalid"),
        ({"version": 2, "sample": 0.5, "override": "none is needed"}, 422, "invalid"),
    ):
        answer = await replica.client.post("/admin/models/delays/shadow", json=order)
        assert (answer.status_code, answer.json()["type"]) == (status, f"urn:relevo:problem:{kind}"), order


async def test_a_broken_shadow_leaves_answers_untouched(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    # Sound in the warm-up, and no finite score for what is asked.
    carrier, x = argument(Tensor(np.str_, ("n",))), argument(Tensor(np.float32, ("n",)))
    departs = argument(Tensor(np.int64, ("n",)))
    unused = op.mul(op.cast(op.equal(carrier, op.const(np.array("AA"))), to=np.float32), op.const(np.float32(0)))
    unused = op.add(unused, op.mul(op.cast(departs, to=np.float32), op.const(np.float32(0))))
    score = op.where(op.greater(x, op.const(np.float32(499))), op.const(np.float32(np.nan)), op.const(np.float32(0.5)))
    nan = versions.version(finish({"carrier": carrier, "distance": x, "departs": departs}, op.add(score, unused)))
    assert (await replica.shadow(nan, sample=1.0)).status_code == 200
    before = shed("failed")
    await asked(replica, 5)
    await until(lambda: shed("failed") == before + 5, "five failures are told")
    assert (await summary(replica))["requests"] == 0
    # Fields that the requests do not have.
    versions.respec(features={**SPEC["features"], "rank": {"type": "number", "required": True}})
    richer = versions.version(tiny_model(0.5))
    assert (await replica.shadow(richer, sample=1.0)).status_code == 200
    before = shed("unread")
    await asked(replica, 5)
    await until(lambda: shed("unread") == before + 5, "five that could not be read are told")


async def test_a_slow_or_dead_shadow_is_shed_and_leaves_answers_untouched(
    versions: Registry, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_SHADOW_WAITING", "3")
    async with running(sessions) as replica:
        await replica.promote(1)
        await replica.shadow(2, sample=1.0)
        await asked(replica, 1)
        await compared(replica, 1)
        process = replica.serving.mirror.process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)  # takes nothing, however long
        full, note = shed("full"), "x" * 4096
        while shed("full") == full:  # the pipe holds some, the queue three
            await asked(replica, 1, note=note)
        lost, before = shed("lost"), (await summary(replica))["requests"]
        process.kill()
        await until(lambda: shed("lost") > lost, "what it took along is counted")

        async def again() -> bool:
            await asked(replica, 1)
            return bool((await summary(replica))["requests"] > before)

        await until(again, "another process compares again")


async def test_nothing_is_given_to_the_shadow_while_the_replica_is_busy(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    await replica.shadow(2, sample=1.0)
    replica.serving.settings.shadow_busy_rows = -1
    busy = shed("busy")
    await asked(replica, 5)
    assert shed("busy") == busy + 5
    assert replica.serving.mirror.process is None, "not even started"
