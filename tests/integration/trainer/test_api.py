"""The trainer's endpoints over a real registry: what they give, and what they refuse with which words."""

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import text

from services.trainer.routes.streams import Streams
from shared.contracts.tasks import TaskName
from shared.registry.states import CycleState, DatasetState, RunState
from shared.registry.tables import Cycle, Pipeline, Run, RunProgress
from tests.integration.trainer.conftest import ADMIN_KEY, OTHER_KEY, READER_KEY, as_key
from tests.support.rows import AS_OF, Rows
from tests.support.waiting import DEADLINE_S, until

BASE = "/v1/pipelines/trips"


async def cycles(client: httpx.AsyncClient, body: Any = None, **headers: str) -> httpx.Response:
    return await client.post(f"{BASE}/cycles", json={} if body is None else body, headers=headers)


async def test_start_and_look_at_a_cycle(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    answer = await cycles(client, {"as_of": "2013-03-01T02:00:00+02:00"})
    assert answer.status_code == 202
    started = answer.json()
    row: Cycle = rows.get(Cycle, uuid.UUID(started["id"]))
    assert (row.pipeline_id, row.state, row.trigger, row.requested_by) == (pipeline, "queued", "manual", "ana")
    assert row.as_of == datetime(2013, 3, 1, tzinfo=UTC)
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, row.id)]
    assert (started["dataset"], started["version"], started["finished_at"]) == (None, None, None)

    run = rows.run(pipeline, state=RunState.SUCCEEDED)
    rows.version(pipeline, run)
    rows.set(Cycle, row.id, run_id=run, dataset_id=rows.get(Run, run).dataset_id, state=CycleState.VALIDATING)
    seen = (await client.get(f"{BASE}/cycles/{row.id}", headers=as_key(READER_KEY))).json()
    assert (seen["state"], seen["dataset"], seen["version"], seen["run_id"]) == ("validating", 1, 1, str(run))


async def test_a_cycle_without_as_of_knows_what_is_known_now(
    client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID
) -> None:
    started = (await cycles(client)).json()
    row: Cycle = rows.get(Cycle, uuid.UUID(started["id"]))
    assert row.as_of == row.created_at


async def test_the_same_key_starts_one_cycle(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    first, again = [await cycles(client, {}, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert again.headers["idempotent-replay"] == "true"
    other = await cycles(client, {"as_of": AS_OF.isoformat()}, **{"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert len(rows.all(Cycle)) == 1


async def test_pages(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    cycles, versions = ([make(pipeline) for _ in range(3)] for make in (rows.cycle, rows.version))
    made = {"cycles": cycles, "versions": versions, "runs": sorted(row.id for row in rows.all(Run))}
    for what, ids in made.items():
        found: list[str] = []
        after = ""
        while True:
            page = (await client.get(f"{BASE}/{what}?limit=2{after}")).json()
            found += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert found == [str(row) for row in ids[::-1]], what


async def test_cancel_a_cycle(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    cycle = rows.cycle(pipeline)
    stopped = await client.post(f"{BASE}/cycles/{cycle}/cancel")
    assert (stopped.status_code, stopped.json()["state"]) == (200, "cancelled")
    assert stopped.json()["finished_at"] is not None
    again = await client.post(f"{BASE}/cycles/{cycle}/cancel")
    assert (again.status_code, again.json()["type"].endswith("conflict")) == (409, True)
    assert again.json()["detail"] == "The cycle is cancelled already; only one at work can be cancelled."
    judged = rows.cycle(pipeline, state=CycleState.VALIDATING)
    assert (await client.post(f"{BASE}/cycles/{judged}/cancel")).status_code == 409


async def test_start_look_at_and_cancel_a_run(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    dataset = rows.ready_dataset(pipeline)
    body, headers = {"dataset": 1}, {"Idempotency-Key": "r"}
    answers = [await client.post(f"{BASE}/runs", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    (run,) = rows.all(Run)
    assert (run.dataset_id, run.state, run.seed, run.cycle_id) == (dataset, "queued", 7, None)
    assert rows.nudges() == [(TaskName.TRAIN, run.id)]

    rows.set(Run, run.id, state=RunState.RUNNING, fence=2, attempt=2, progress={"step": "training", "epoch": 2})
    for fence, epochs in ((1, (1, 2, 3)), (2, (1, 2))):
        for epoch in epochs:
            rows.add(
                RunProgress(run_id=run.id, fence=fence, epoch=epoch, train_loss=0.5, is_best=epoch == 2, seconds=1.0)
            )
    seen = (await client.get(f"{BASE}/runs/{run.id}", headers=as_key(READER_KEY))).json()
    assert [epoch["epoch"] for epoch in seen["epochs"]] == [1, 2], "of the latest attempt alone"
    assert (seen["dataset"], seen["version"], seen["progress"]["epoch"]) == (1, None, 2)
    assert "epochs" not in (await client.get(f"{BASE}/runs")).json()["items"][0]

    asked = (await client.post(f"{BASE}/runs/{run.id}/cancel")).json()
    assert (asked["state"], asked["cancel_requested"]) == ("running", True)
    waiting = rows.run(pipeline, dataset)
    assert (await client.post(f"{BASE}/runs/{waiting}/cancel")).json()["state"] == "cancelled"
    again = await client.post(f"{BASE}/runs/{waiting}/cancel")
    assert (again.status_code, again.json()["detail"]) == (409, "The run has cancelled already.")


async def test_only_a_ready_dataset_is_trained_on(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    rows.dataset(pipeline, state=DatasetState.FAILED)
    refused = await client.post(f"{BASE}/runs", json={"dataset": 1})
    assert refused.status_code == 409
    assert refused.json()["detail"] == "Dataset 1 is failed; only a ready one can be trained on."


async def test_follow_a_run_to_its_end(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline, state=RunState.RUNNING, progress={"epoch": 1})
    shown: list[dict[str, Any]] = []

    async def follow() -> None:
        # The whole stream arrives at once in this process, so its end is decided by another task.
        answer = await client.get(f"{BASE}/runs/{run}/events", timeout=90)
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in answer.text.strip().split("\n\n"):
            kind, data = block.split("\n")
            assert kind == "event: progress"
            shown.append(orjson.loads(data.removeprefix("data: ")))

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    rows.set(Run, run, state=RunState.FAILED, reason="The loss became NaN.")
    await following
    assert (shown[-1]["state"], shown[-1]["reason"]) == ("failed", "The loss became NaN.")
    assert [item["state"] for item in shown] in (["running", "failed"], ["failed"])


def streams(client: httpx.AsyncClient) -> Streams:
    transport: Any = client._transport
    found: Streams = transport.app.state.streams
    return found


async def follow(client: httpx.AsyncClient, run: uuid.UUID, key: str = READER_KEY) -> "asyncio.Task[httpx.Response]":
    """A stream that is open now."""
    before = streams(client).open
    task = asyncio.create_task(client.get(f"{BASE}/runs/{run}/events", headers=as_key(key), timeout=DEADLINE_S))
    await asyncio.to_thread(until, lambda: streams(client).open > before, "the stream is open")
    return task


async def test_a_stream_ends_with_its_key(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline, state=RunState.RUNNING)
    following, other = await follow(client, run), await follow(client, run, ADMIN_KEY)
    with rows.sessions.begin() as session:
        revoke = text("update api_keys set revoked_at = now() where id = :id")
        session.execute(revoke, {"id": READER_KEY.split("_")[1]})
    async with asyncio.timeout(DEADLINE_S):
        answer = await following
    assert (answer.status_code, answer.text.count("event: progress")) == (200, 1)
    assert not other.done(), "the run goes on, and so does whoever may follow it"
    rows.set(Run, run, state=RunState.SUCCEEDED)
    async with asyncio.timeout(DEADLINE_S):
        assert (await other).text.count("event: progress") == 2
    assert streams(client).open == 0


async def test_streams_are_bounded(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    run = rows.run(pipeline, state=RunState.RUNNING)
    streams(client).limit = 2
    first, second = await follow(client, run), await follow(client, run)
    refused = await client.get(f"{BASE}/runs/{run}/events")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert "2 runs are followed here already" in refused.json()["detail"]
    first.cancel()  # its client leaves
    with contextlib.suppress(asyncio.CancelledError):
        await first
    third = await follow(client, run)
    rows.set(Run, run, state=RunState.SUCCEEDED)
    async with asyncio.timeout(DEADLINE_S):
        assert [answer.status_code for answer in await asyncio.gather(second, third)] == [200, 200]
    assert streams(client).open == 0


async def test_versions(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    rows.version(pipeline, metrics={"parity_max_diff": 1e-7})
    seen = (await client.get(f"{BASE}/versions/1", headers=as_key(READER_KEY))).json()
    assert (seen["number"], seen["state"], seen["dataset"]) == (1, "candidate", 1)
    assert seen["metrics"] == {"parity_max_diff": 1e-7}
    missing = await client.get(f"{BASE}/versions/2")
    assert (missing.status_code, missing.json()["detail"]) == (404, "This pipeline has no version 2.")


async def test_the_schedule(client: httpx.AsyncClient, rows: Rows) -> None:
    rows.pipeline(schedule="0 3 * * *")
    shown = (await client.get(f"{BASE}/schedule", headers=as_key(READER_KEY))).json()
    assert (shown["cron"], shown["source"], shown["paused"], shown["changed_by"]) == (
        "0 3 * * *",
        "pipeline",
        False,
        None,
    )
    set_now = (await client.put(f"{BASE}/schedule", json={"cron": " */15   * * * * "})).json()
    assert (set_now["cron"], set_now["source"], set_now["changed_by"]) == ("*/15 * * * *", "schedule", "ana")
    paused = (await client.put(f"{BASE}/schedule", json={"paused": True})).json()
    assert (paused["cron"], paused["source"], paused["paused"]) == ("0 3 * * *", "pipeline", True)
    back = (await client.put(f"{BASE}/schedule", json={})).json()
    assert (back["cron"], back["paused"]) == ("0 3 * * *", False)


SOON = (datetime.now(UTC) + timedelta(days=2)).isoformat()


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("POST", "/cycles", {"as_of": SOON}, 422, "as_of lies in the future"),
        ("POST", "/cycles", {"as_of": "1899-12-31T00:00:00Z"}, 422, "as_of lies before the year 1900"),
        ("POST", "/cycles", {"as_of": "2013-03-01T00:00:00"}, 422, "timezone"),
        ("POST", "/cycles", {"as_of": "yesterday"}, 422, "as_of"),
        ("POST", "/cycles", {"as_of": 1e30}, 422, "as_of"),
        ("POST", "/cycles", {"as_of": None, "until": 1}, 422, "until"),
        ("POST", "/cycles", b'{"as_of": NaN}', 400, ""),
        ("POST", "/cycles", b"{", 400, ""),
        ("POST", "/cycles", [], 422, ""),
        ("GET", "/cycles/not-an-id", None, 422, "id"),
        ("GET", f"/cycles/{uuid.UUID(int=1)}", None, 404, "no cycle"),
        ("POST", f"/cycles/{uuid.UUID(int=1)}/cancel", None, 404, "no cycle"),
        ("GET", "/cycles?limit=0", None, 422, "limit"),
        ("GET", "/cycles?limit=201", None, 422, "limit"),
        ("GET", "/cycles?after=1", None, 422, "after"),
        ("POST", "/runs", {}, 422, "dataset"),
        ("POST", "/runs", {"dataset": "1"}, 422, "dataset"),
        ("POST", "/runs", {"dataset": True}, 422, "dataset"),
        ("POST", "/runs", {"dataset": 0}, 422, "dataset"),
        ("POST", "/runs", {"dataset": 2**63}, 422, "dataset"),
        ("POST", "/runs", {"dataset": 77}, 404, "no dataset 77"),
        ("GET", f"/runs/{uuid.UUID(int=1)}", None, 404, "no run"),
        ("GET", f"/runs/{uuid.UUID(int=1)}/events", None, 404, "no run"),
        ("GET", "/versions/0", None, 422, "n"),
        ("GET", "/versions/99999999999999999999", None, 422, "n"),
        ("GET", "/versions/x", None, 422, "n"),
        ("PUT", "/schedule", {"cron": "often"}, 422, "five fields"),
        ("PUT", "/schedule", {"cron": "0 0 31 2 *"}, 422, "day of month"),
        ("PUT", "/schedule", {"cron": "61 * * * *"}, 422, "minute"),
        ("PUT", "/schedule", {"cron": "* * * * \u0000"}, 422, "cron"),
        ("PUT", "/schedule", {"paused": "perhaps"}, 422, "paused"),
    ],
)
async def test_bad_requests(
    client: httpx.AsyncClient,
    rows: Rows,
    pipeline: uuid.UUID,
    method: str,
    path: str,
    content: Any,
    status: int,
    words: str,
) -> None:
    body = {"content": content, "headers": {"content-type": "application/json"}}
    answer = await client.request(
        method,
        BASE + path,
        **(body if isinstance(content, bytes) else {"json": content} if content is not None else {}),
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.text
    assert (rows.all(Cycle), rows.all(Run), rows.nudges()) == ([], [], [])


@pytest.mark.parametrize("name", ["nothing", "Not%20a%20name", "a%00b", "x" * 300])
async def test_unknown_pipelines(client: httpx.AsyncClient, name: str) -> None:
    for path in ("cycles", "runs", "versions", "schedule"):
        answer = await client.get(f"/v1/pipelines/{name}/{path}")
        assert answer.status_code in (404, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_another_pipelines_rows_are_not_found(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    rows.pipeline(name="others")
    cycle, run = rows.cycle(pipeline), rows.run(pipeline)
    for path in (f"cycles/{cycle}", f"runs/{run}", "versions/1"):
        assert (await client.get(f"/v1/pipelines/others/{path}")).status_code == 404
    for path in (f"cycles/{cycle}/cancel", f"runs/{run}/cancel"):
        assert (await client.post(f"/v1/pipelines/others/{path}")).status_code == 404
    assert [row.name for row in rows.all(Pipeline)] == ["trips", "others"]


async def test_who_may_do_what(client: httpx.AsyncClient, rows: Rows, pipeline: uuid.UUID) -> None:
    cycle, run = rows.cycle(pipeline), rows.run(pipeline)
    changes = [
        ("POST", "/cycles", {}),
        ("POST", f"/cycles/{cycle}/cancel", None),
        ("POST", "/runs", {"dataset": 1}),
        ("POST", f"/runs/{run}/cancel", None),
        ("PUT", "/schedule", {}),
    ]
    looks = [("GET", path, None) for path in ("/cycles", "/runs", "/versions", "/schedule", f"/runs/{run}/events")]
    for method, path, body in [*changes, *looks]:
        anonymous = await client.request(method, BASE + path, json=body, headers={"Authorization": ""})
        assert anonymous.status_code == 401, path
        elsewhere = await client.request(method, BASE + path, json=body, headers=as_key(OTHER_KEY))
        assert elsewhere.status_code in (403, 404), path
    for method, path, body in changes:
        reader = await client.request(method, BASE + path, json=body, headers=as_key(READER_KEY))
        assert reader.status_code == 403, path
    assert len(rows.all(Cycle)) == 1


async def test_health(client: httpx.AsyncClient) -> None:
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["checks"]) >= {"postgres", "redis"}
    assert (await client.get("/healthz")).status_code == 200
    assert "relevo_" in (await client.get("/metrics")).text
