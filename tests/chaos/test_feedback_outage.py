"""PostgreSQL goes away while feedback is being stored: 503, nothing half done, and the same batch again is taken once."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from shared.ids import new_id
from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import Replica, registry, running, until
from tests.integration.serving.proxy import Proxy, proxied
from tests.integration.serving.registry import Registry

__all__ = ["registry"]

IDS = PredictionIds(PREDICTION_SECRET)


@pytest.fixture
def proxy(registry: Registry, relevo_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The app reaches PostgreSQL through this; the test itself does not."""
    registry.pipeline("one")
    registry.pipeline("two")
    with proxied(relevo_env["DATABASE_URL"]) as (url, made):
        monkeypatch.setenv("DATABASE_URL", url)
        yield made


def batch() -> list[dict[str, Any]]:
    """About two pipelines, so that it is stored in two statements; of each, one item says since when it is known."""
    return [
        {
            "prediction_id": IDS.make(name, new_id(), 0),
            "label": row,
            **({"time": "2026-01-01T00:00:00Z"} if row else {}),
        }
        for name in ("one", "two")
        for row in range(2)
    ]


def stored(sessions: Sessions) -> list[Any]:
    with sessions.begin() as session:
        return list(session.execute(text("select request_id, label from labels order by seq")))


def waits(sessions: Sessions) -> bool:
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%insert into labels%'"
    with sessions.begin() as session:
        return bool(session.scalar(text(query)))


def check_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0


async def sent_again(replica: Replica, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Until it is taken, as a client does that is told to come back."""
    answers: list[httpx.Response] = []

    async def taken() -> bool:
        answers.append(await replica.client.post("/feedback", json=items))
        return answers[-1].status_code == 200

    await until(taken, "feedback is taken again")
    for answer in answers[:-1]:
        check_refused(answer)
    body: dict[str, Any] = answers[-1].json()
    return body


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_feedback_that_meets_an_outage_in_its_midst(
    proxy: Proxy, sessions: Sessions, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_REGISTRY_WAIT_S", {"cut": "20", "freeze": "1"}[how])
    async with running(sessions) as replica:
        await until(lambda: len(replica.serving.follower.catalogue.pipelines) == 2, "the pipelines are known")
        pipelines = replica.serving.follower.catalogue.pipelines
        items = batch()
        with sessions() as holder:
            # What is about the first pipeline is stored, what is about the second has to wait.
            second = max(pipeline.id for pipeline in pipelines.values())
            holder.execute(text("select 1 from pipelines where id = :id for update"), {"id": second})
            asked = asyncio.create_task(replica.client.post("/feedback", json=items))
            await until(lambda: waits(sessions), "the batch waits for the holder")
            getattr(proxy, how)()
            check_refused(await asked)
            holder.rollback()
        assert stored(sessions) == []
        check_refused(await replica.client.post("/feedback", json=items))
        assert stored(sessions) == []

        proxy.mend()
        report = await sent_again(replica, items)
        assert report["accepted"] + report["duplicates"] == len(items)
        wanted = {(IDS.verify(name, item["prediction_id"])[0], item["label"]) for name, item in named(items)}
        assert {tuple(row) for row in stored(sessions)} == wanted
        if how == "cut":
            assert report["accepted"] == len(stored(sessions)) == len(items)
        assert (await sent_again(replica, items))["duplicates"] == len(items)


def named(items: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each with its pipeline."""
    return zip(("one", "one", "two", "two"), items, strict=True)
