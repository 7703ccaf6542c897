"""Offline predictions end to end: asked for, made by the worker, switched to, looked up, and what answers without them."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.serving.offline.manifest import INDEX_FILE, ROWS_FILE, read_manifest
from shared.registry.session import Sessions
from shared.registry.states import PrecomputeState
from tests.integration.serving.conftest import Replica, bearer, flight, sample, until
from tests.integration.serving.precomputing import (
    DEPARTS,
    add_dataset,
    add_event,
    answering,
    generations,
    rows,
    work,
)
from tests.integration.serving.registry import PREDICT_KEY, READ_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

PARQUET = "application/vnd.apache.parquet"


@pytest.fixture
def deployed(registry: Registry) -> Registry:
    """`delays`, whose version 1 gives 0.25, + 0.125 for AA, + 0.1 for 1,000 miles."""
    registry.pipeline()
    registry.deploy(registry.version(tiny_model(0.25, weight=0.1)))
    return registry


async def order(replica: Replica, source: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return await replica.client.post("/v1/models/delays/precompute", json=source or {}, headers=headers)


async def look_up(replica: Replica, key: str, **query: Any) -> httpx.Response:
    return await replica.client.get(f"/v1/models/delays/predictions/{key}", params=query)


async def made(replica: Replica, registry: Registry, source: dict[str, Any] | None = None) -> dict[str, Any]:
    """A generation that was asked for, made, and switched to."""
    asked = await order(replica, source)
    assert asked.status_code == 202, asked.text
    work(replica.sessions, registry.store)
    number = asked.json()["number"]
    row: dict[str, Any] = (await replica.client.get(f"/v1/models/delays/precompute/{number}")).json()
    assert row["state"] == "ready", row
    await answering(replica, number)
    return row


async def test_a_dataset_is_scored_and_looked_up(deployed: Registry, replica: Replica, tmp_path: Path) -> None:
    train, test = rows(3000), rows(50, "late/ä")
    number = add_dataset(deployed, tmp_path, train, test)
    row = await made(replica, deployed, {"dataset": "latest"})
    assert row["source"] == {"dataset": number}
    assert (row["rows"], row["version"], row["trigger"], row["requested_by"]) == (3050, 1, "request", "admin")
    assert row["progress"]["rows_done"] == row["progress"]["rows"] == 3050
    assert row["parity"]["rows"] > 150
    assert row["parity"]["largest_difference"] <= 1e-6

    answer = (await look_up(replica, "F-3")).json()
    assert answer["score"] == pytest.approx(0.25 + 0.125 + 0.0003, abs=1e-6)
    assert (answer["source"], answer["model_version"], answer["generation"]) == ("offline", 1, row["number"])
    assert answer["computed_at"] == row["computed_at"].replace("Z", "+00:00")
    assert 0 <= answer["staleness_s"] < 600
    assert answer["prediction_id"] is None
    assert (await look_up(replica, "late/ä-49")).json()["source"] == "offline", (
        "a key may hold what an address gives a meaning"
    )
    assert sample("relevo_serving_offline_lookups_total", model="delays", source="offline") >= 2

    only = await made(replica, deployed, {"dataset": number, "split": "test"})
    assert only["rows"] == 50
    gone = await look_up(replica, "F-3")
    assert gone.status_code == 404
    assert "Generation 2 of delays has no such key" in gone.json()["detail"]
    assert "/v1/models/delays/precompute" in gone.json()["detail"]


async def test_offline_equals_online_over_http(deployed: Registry, replica: Replica, tmp_path: Path) -> None:
    add_dataset(deployed, tmp_path, rows(500), rows(1, "T"))
    await made(replica, deployed, {"dataset": "latest"})
    sent = [
        {
            "flight": row["key"],
            "departs": row["departs"].isoformat(),
            "carrier": row["carrier"],
            "distance": row["distance"],
        }
        for row in rows(500)
    ]
    online = (await replica.predict(*sent)).json()["predictions"]
    answer = await replica.client.post(
        "/v1/models/delays/predictions", json={"instances": [{"flight": f"F-{n}"} for n in range(500)]}
    )
    offline = answer.json()["predictions"]
    assert {one["source"] for one in offline} == {"offline"}
    assert [one["key"] for one in offline] == [one["key"] for one in online]
    assert max(abs(a["score"] - b["score"]) for a, b in zip(offline, online, strict=True)) <= 1e-6


async def test_all_keys_seen_are_scored_by_their_latest_instance(deployed: Registry, replica: Replica) -> None:
    earlier = DEPARTS - timedelta(days=2)
    add_event(deployed, "both", earlier, carrier="AA")
    add_event(deployed, "event", earlier, carrier="AA", distance=1000.0)
    await until(lambda: replica.serving.slots.applied("delays") is not None, "version 1 answers")
    await replica.predict(
        flight(7, carrier="UA", distance=2000), {**flight(), "flight": "both", "carrier": "UA", "distance": None}
    )
    await replica.predict({**flight(), "flight": "pinned"}, version=1)
    await replica.shipped(3)
    row = await made(replica, deployed, {"keys_seen": {}})
    assert row["rows"] == 3
    scores = {key: (await look_up(replica, key)).json()["score"] for key in ("both", "event", "AA-7")}
    assert scores == pytest.approx({"both": 0.25, "event": 0.475, "AA-7": 0.45}, abs=1e-6)
    assert (await look_up(replica, "pinned")).status_code == 404

    nothing = await order(replica, {"keys_seen": {"since": "1s"}})
    work(replica.sessions, deployed.store)
    failed = (await replica.client.get(f"/v1/models/delays/precompute/{nothing.json()['number']}")).json()
    assert (failed["state"], failed["reason"]) == ("failed", "The source has no row that the version can score.")
    assert (await look_up(replica, "event")).json()["generation"] == row["number"], (
        "the generation before goes on answering"
    )


async def test_the_chain_is_offline_online_default(registry: Registry, replica: Replica, tmp_path: Path) -> None:
    registry.pipeline(offline={"max_staleness": "1h", "default": 0.5})
    registry.deploy(registry.version(tiny_model(0.25, weight=0.1)))
    add_dataset(registry, tmp_path, rows(20), rows(1, "T"))
    before = await look_up(replica, "F-1")
    while before.status_code == 404:  # the pipeline is not known here yet
        before = await look_up(replica, "F-1")
    assert before.json() == {
        "key": "F-1", "source": "default", "score": 0.5, "model_version": None, "generation": None,
        "computed_at": None, "staleness_s": None, "prediction_id": None,
    }  # fmt: skip
    row = await made(replica, registry, {"dataset": "latest"})
    offline = (await look_up(replica, "F-1")).json()
    registry.deploy(registry.version(tiny_model(0.5, weight=0.1)), generation=2)
    online = (await look_up(replica, "F-1", max_staleness_s=0)).json()
    while online["model_version"] != 2:  # the pointer moved a moment ago
        online = (await look_up(replica, "F-1", max_staleness_s=0)).json()
    assert (offline["source"], offline["score"]) == ("offline", pytest.approx(0.2501))
    assert (online["source"], online["score"], online["generation"]) == ("online", pytest.approx(0.5001), row["number"])
    logged = await replica.shipped(1)
    assert {(one.key, one.instance["distance"], one.instance["carrier"]) for one in logged} == {("F-1", 1.0, "UA")}
    assert online["prediction_id"] is not None

    sent = {"instances": [{"flight": "F-1"}, flight(9, carrier="AA", distance=1000)]}
    mixed = (await replica.client.post("/v1/models/delays/predictions", json=sent)).json()["predictions"]
    assert [(one["key"], one["source"]) for one in mixed] == [("F-1", "offline"), ("AA-9", "online")]
    assert mixed[1]["score"] == pytest.approx(0.725)
    wrong = await replica.client.post(
        "/v1/models/delays/predictions", json={"instances": [{"flight": "F-1"}, flight(9, distance="far")]}
    )
    assert wrong.status_code == 422
    assert wrong.json()["errors"] == [{"loc": ["body", "instances", 1, "distance"], "msg": "must be a number"}]


async def test_an_uploaded_file_is_checked_against_the_pipeline(deployed: Registry, replica: Replica) -> None:
    def file(**changes: Any) -> bytes:
        columns = {
            "flight": ["a", "b", "c"], "departs": ["2013-06-02T12:00:00-04:00"] * 3, "carrier": ["AA", "UA", None],
            "distance": [100, 200, None], **changes,
        }  # fmt: skip
        sink = io.BytesIO()
        pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), sink)
        return sink.getvalue()

    async def upload(body: bytes, **headers: str) -> httpx.Response:
        return await replica.client.post(
            "/v1/models/delays/precompute", content=body, headers={"content-type": PARQUET, **headers}
        )

    asked = await upload(file(), **{"Idempotency-Key": "mine"})
    assert asked.status_code == 202, asked.text
    again = await upload(file(), **{"Idempotency-Key": "mine"})
    assert (again.json()["id"], again.headers["idempotent-replay"]) == (asked.json()["id"], "true")
    work(replica.sessions, deployed.store)
    await answering(replica, asked.json()["number"])
    assert (await look_up(replica, "b")).json()["score"] == pytest.approx(0.27)

    assert (await upload(b"no parquet at all")).status_code == 400
    wrong = {
        "The file does not fit the pipeline: column distance must be of a number type.": file(distance=["x", "y", "z"]),
        "The file does not fit the pipeline: column departs is required and is no column of the file.": file(
            departs=None
        ),
        "The file does not fit the pipeline: column late is no field of this pipeline.": file(late=[1, 0, 1]),
        "The column flight must have 1 to 256 characters (row 1).": file(flight=["a", "", "c"]),
        "The column departs is required (row 2).": file(departs=["2013-06-02T12:00:00-04:00"] * 2 + [None]),
        "The column distance must be a finite number, or null where it is missing (row 0).": file(
            distance=[float("inf"), 1.0, 2.0]
        ),
        "The key 'a' stands in rows 0 and 2; each key may have one row.": file(flight=["a", "b", "a"]),
        "The body is not a readable Parquet file, or unpacks to more than an upload may.": file()[:60] + file()[80:],
    }
    for reason, body in wrong.items():
        asked = await upload(body)
        assert asked.status_code == 202
        work(replica.sessions, deployed.store)
        row = (await replica.client.get(f"/v1/models/delays/precompute/{asked.json()['number']}")).json()
        assert row["state"] == "failed", reason
        assert row["reason"].startswith(reason.split(" (")[0].split(", or unpacks")[0].rstrip(".")[:40]), row["reason"]
        if not row["reason"].startswith("The body"):
            assert row["reason"] == reason
    assert (await look_up(replica, "b")).json()["source"] == "offline"


async def test_bad_requests_say_what_is_wrong(deployed: Registry, replica: Replica) -> None:
    for source, loc in (
        ({"dataset": 0}, ["body", "dataset"]),
        ({"dataset": 1, "keys_seen": {}}, ["body"]),
        ({"split": "test"}, ["body"]),
        ({"keys_seen": {"since": "long"}}, ["body", "keys_seen", "since"]),
        ({"everything": True}, ["body", "everything"]),
    ):
        answer = await order(replica, source)
        assert answer.status_code == 422, source
        assert answer.json()["errors"][0]["loc"][: len(loc)] == loc
    assert (await order(replica, [])).status_code in (202, 422)  # type: ignore[arg-type]
    text = await replica.client.post("/v1/models/delays/precompute", content=b"x", headers={"content-type": "text/csv"})
    assert text.status_code == 415
    assert (await replica.client.post("/v1/models/other/precompute", json={})).status_code == 404
    assert (await order(replica, {}, **bearer(PREDICT_KEY))).status_code == 403
    assert (await replica.client.get("/v1/models/delays/predictions/x", headers=bearer(READ_KEY))).status_code == 403
    assert (await replica.client.get("/v1/models/delays/precompute/99")).status_code == 404
    for query, field in (({"max_staleness_s": "soon"}, "max_staleness_s"), ({"max_age": "1"}, "max_age")):
        answer = await look_up(replica, "x", **query)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["query", field]
    for body, loc in (
        ({}, ["body", "instances"]),
        ({"instances": [3]}, ["body", "instances", 0]),
        ({"instances": [{}]}, ["body", "instances", 0, "flight"]),
        ({"instances": [{"flight": "a"}], "max_staleness_s": -1}, ["body", "max_staleness_s"]),
        ({"instances": [{"flight": "a"}], "model": "x"}, ["body", "model"]),
    ):
        answer = await replica.client.post("/v1/models/delays/predictions", json=body)
        assert answer.status_code == 422, body
        assert answer.json()["errors"][0]["loc"] == loc


async def test_old_generations_are_retired_and_files_removed(
    deployed: Registry, replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_PRECOMPUTE_KEEP", "2")
    add_dataset(deployed, tmp_path, rows(20), rows(1, "T"))
    first = await made(replica, deployed, {"dataset": "latest"})
    manifest = read_manifest(deployed.store.get(first["digest"]), first["digest"])
    held = replica.serving.generations.get("delays")
    for _ in range(2):
        await made(replica, deployed, {"dataset": "latest"})
    page = (await replica.client.get("/v1/models/delays/precompute", params={"limit": 2})).json()
    assert [(row["number"], row["state"]) for row in page["items"]] == [(3, "ready"), (2, "ready")]
    last = (await replica.client.get("/v1/models/delays/precompute", params={"after": page["next"]})).json()
    assert [(row["number"], row["state"]) for row in last["items"]] == [(1, "retired")]
    for name in (ROWS_FILE, INDEX_FILE):
        assert not deployed.store.exists(manifest.files[name].sha256)
    assert held is not None
    assert held.find("F-1") is not None, "who still reads it goes on"


async def test_a_release_asks_for_a_generation_and_a_queued_one_serves_both(
    registry: Registry, replica: Replica, sessions: Sessions
) -> None:
    registry.pipeline(offline={"after_promotion": True})
    for base in (0.25, 0.5, 0.75):
        registry.version(tiny_model(base))
    add_event(registry, "one", carrier="UA")
    assert (await replica.promote(1)).status_code == 200
    assert (await replica.promote(2)).status_code == 200
    with sessions.begin() as session:
        (row,) = generations(session)
        assert (row.trigger, row.requested_by, row.source) == ("release", "admin", {"keys_seen": {}})
    work(sessions, registry.store)
    await answering(replica, 1)
    found = (await look_up(replica, "one")).json()
    assert (found["source"], found["score"], found["model_version"]) == ("offline", 0.5, 2)
    await replica.roll_back()
    work(sessions, registry.store)
    await answering(replica, 2)
    assert (await look_up(replica, "one")).json()["model_version"] == 1


async def test_without_a_wish_a_release_asks_for_nothing(
    deployed: Registry, replica: Replica, sessions: Sessions
) -> None:
    deployed.version(tiny_model(0.5))
    await replica.promote(2)
    with sessions.begin() as session:
        assert generations(session) == []


async def test_a_version_that_is_not_there_fails_the_generation(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    asked = await order(replica)
    while asked.status_code == 404:
        asked = await order(replica)
    work(replica.sessions, registry.store)
    row = (await replica.client.get("/v1/models/delays/precompute/1")).json()
    assert row["state"] == PrecomputeState.FAILED
    assert "No version is in production" in row["reason"]


async def test_stages_and_removals_of_the_moment_apply_to_what_was_made_before(
    deployed: Registry, replica: Replica, tmp_path: Path
) -> None:
    add_dataset(deployed, tmp_path, rows(20), rows(1, "T"))
    await made(replica, deployed, {"dataset": "latest"})
    admin = "/admin/models/delays"
    stages = [{"type": "clip", "high": 0.3}, {"type": "threshold", "at": 0.3}]
    ordered = await replica.client.put(f"{admin}/postprocessing", json={"reason": "test", "stages": stages})
    assert ordered.status_code == 200, ordered.text
    clipped, below = (await look_up(replica, "F-3")).json(), (await look_up(replica, "F-1")).json()
    assert (clipped["source"], clipped["score"], clipped["decision"]) == ("offline", 0.3, True)
    assert (clipped["raw_score"], below["decision"]) == (pytest.approx(0.3753), False)
    online = (await look_up(replica, "F-3", max_staleness_s=0)).json()
    assert {name: online[name] for name in ("source", "score", "raw_score", "decision")} == {
        "source": "online", "score": 0.3, "raw_score": clipped["raw_score"], "decision": True,
    }  # fmt: skip

    removed = [
        await replica.client.post(f"{admin}/removals", json={"items": items, "field": field, "reason": "test"})
        for items, field in ((["F-1"], None), (["AA"], "carrier"))
    ]
    assert {answer.status_code for answer in removed} == {200}, removed[0].text
    for key in ("F-1", "F-3"):
        for query in ({}, {"max_staleness_s": 0}):
            gone = (await look_up(replica, key, **query)).json()
            assert (gone["score"], gone["raw_score"], gone["removed"]) == (None, None, True), gone
    assert "removed" not in (await look_up(replica, "F-4")).json()
    for no_key in ("", "k" * 300):
        refused = await look_up(replica, no_key)
        assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["path", "key"]), refused.text
    old = {"instances": [{"flight": "F-4"}], "max_staleness_s": 0}
    by_key = (await replica.client.post("/v1/models/delays/predictions", json=old)).json()["predictions"]
    assert [one["source"] for one in by_key] == ["online"], "what is known of the key is scored"

    now_of_another = {"instances": [flight(flight="F-4"), flight(flight="F-4", carrier="UA")]}
    as_sent = (await replica.client.post("/v1/models/delays/predictions", json=now_of_another)).json()["predictions"]
    assert [(one["source"], one.get("removed", False)) for one in as_sent] == [("online", True), ("offline", False)]

    await replica.client.post(f"{admin}/removals", json={"items": ["N1"], "field": "tail", "reason": "test"})
    blind = await look_up(replica, "F-4")
    assert blind.status_code == 404, "the dataset does not hold the tail: it may be the one that is removed"
    assert "The removal list goes by tail, which generation 1 does not hold" in blind.json()["detail"]
    sent = {"instances": [flight(4, tail="N1"), flight(5, tail="N2", carrier="UA")]}
    mixed = (await replica.client.post("/v1/models/delays/predictions", json=sent)).json()["predictions"]
    assert [(one["source"], one.get("removed", False)) for one in mixed] == [("online", True), ("online", False)]
