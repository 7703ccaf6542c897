"""PostgreSQL goes away: predictions go on, are logged on disk, and are in the table exactly once when it is back."""

from collections.abc import Iterator

import pytest

from shared.registry.session import Sessions
from tests.integration.serving.conftest import Replica, flight, registry, running, until
from tests.integration.serving.proxy import Proxy, proxied
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import tiny_model

__all__ = ["registry"]


@pytest.fixture
def proxy(registry: Registry, relevo_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The app reaches PostgreSQL through this; the test itself does not."""
    registry.pipeline()
    registry.version(tiny_model(0.25))
    registry.version(tiny_model(0.5))
    monkeypatch.setenv("SERVING_FLUSH_S", "1")
    with proxied(relevo_env["DATABASE_URL"]) as (url, made):
        monkeypatch.setenv("DATABASE_URL", url)
        yield made


async def readiness(replica: Replica) -> tuple[int, str, list[str]]:
    answer = await replica.client.get("/readyz")
    return answer.status_code, answer.json()["status"], answer.json()["degraded"]


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_predictions_go_on_without_postgres(proxy: Proxy, sessions: Sessions, how: str) -> None:
    async with running(sessions) as replica:
        assert (await replica.promote(1)).status_code == 200
        await replica.predict(flight(0))
        await replica.shipped(1)

        getattr(proxy, how)()
        for number in range(1, 200):
            assert (await replica.predict(flight(number))).status_code == 200

        async def degraded() -> bool:
            return await readiness(replica) == (200, "degraded", ["postgres"])

        await until(degraded, "readiness says degraded")
        assert (await replica.predict(flight(200))).status_code == 200
        assert len(replica.logged()) == 1
        assert (await replica.client.post("/feedback", json=[{"key": "AA-1", "label": 1}])).status_code == 503
        assert (await replica.promote(2)).status_code == 503
        if how == "cut":
            assert (await replica.client.get("/admin/models/delays/history")).status_code == 503

        proxy.mend()
        rows = await replica.shipped(201)
        assert sorted(row.key for row in rows) == sorted(f"AA-{number}" for number in range(201))

        async def ready() -> bool:
            return (await readiness(replica))[1] == "ready"

        await until(ready, "readiness is green again")
        assert (await replica.promote(2)).json()["applied"]


async def test_a_restart_without_postgres_serves_what_was_known(proxy: Proxy, sessions: Sessions) -> None:
    async with running(sessions) as replica:
        await replica.promote(1)
        await replica.promote(2)
        await replica.predict(flight(1))
        await replica.shipped(1)
        await until(
            lambda: replica.serving.follower.pipeline("delays").pointer.live == 2, "the pointer is read and kept"
        )  # type: ignore[union-attr]

    proxy.cut()
    async with running(sessions) as replica:

        async def answers() -> bool:
            return (await replica.predict(flight(2))).status_code == 200

        await until(answers, "the saved state is served")
        assert (await replica.predict(flight(3))).json()["model_version"] == 2
        assert (await replica.predict(flight(4), version=1)).json()["model_version"] == 1
        assert await readiness(replica) == (200, "degraded", ["postgres"])
        assert (await replica.promote(1)).status_code == 503

    assert len(replica.logged()) == 1, "what could not be shipped waits on disk"
    proxy.mend()
    async with running(sessions) as replica:
        keys = [row.key for row in await replica.shipped(4)]
        assert {"AA-1", "AA-2", "AA-3", "AA-4"} == set(keys)


async def test_a_full_spool_refuses_rather_than_forgets(
    proxy: Proxy, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_SPOOL_LIMIT_BYTES", "4000")
    async with running(sessions) as replica:
        await replica.promote(1)
        proxy.cut()
        answered = 0
        for number in range(200):
            answer = await replica.predict(flight(number))
            if answer.status_code != 200:
                break
            answered += 1
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:relevo:problem:prediction-log-full"
        assert int(answer.headers["retry-after"]) > 0
        assert 2 < answered < 50
        proxy.mend()
        assert len(await replica.shipped(answered)) == answered

        async def answers() -> bool:
            return (await replica.predict(flight(999))).status_code == 200

        await until(answers, "predictions are taken again")
