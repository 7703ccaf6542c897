"""A canary answers its share of the keys, and the same keys however the weights change; it never costs a request."""

import asyncio
from itertools import count
from typing import Any

import pytest
from sqlmodel import select

from services.serving.models.policy import Applied
from shared.registry.states import Decision
from shared.registry.tables import Deployment, ModelVersion
from tests.integration.serving.conftest import Replica, flight, sample, until
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import SPEC, tiny_model

KEYS = 300


@pytest.fixture
def versions(registry: Registry) -> Registry:
    """Version n of `delays` answers n/8."""
    registry.pipeline()
    for number in (1, 2, 3):
        registry.version(tiny_model(number / 8))
    return registry


async def answers(replica: Replica, keys: range = range(KEYS), **fields: Any) -> dict[int, int]:
    """Which version answers each key."""
    found = {}
    for key in keys:
        answer = await replica.predict(flight(key, carrier="UA", **fields))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["predictions"][0]["score"] == body["model_version"] / 8
        found[key] = body["model_version"]
    return found


async def history(replica: Replica, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await replica.client.get("/admin/models/delays/history", params=query)).json()[
        "items"
    ]
    return items


def keys_of(found: dict[int, int], version: int) -> set[int]:
    return {key for key, answered in found.items() if answered == version}


async def test_keys_stay_with_their_version_while_weights_change(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    begun = await replica.canary(2, weight=0.2, expected_generation=1, reason="looks good offline")
    assert begun.status_code == 200, begun.text
    assert begun.json() == {
        "model": "delays", "live_version": 1, "generation": 2, "previous_version": None,
        "canary": {"version": 2, "share": 0.2}, "shadow": None, "changed": True, "applied": True,
    }  # fmt: skip
    again = await replica.canary(2, weight=0.2, expected_generation=1)
    assert again.json() == {**begun.json(), "changed": False}, "repeated, it takes effect once"
    few = keys_of(await answers(replica), 2)
    assert 0.08 < len(few) / KEYS < 0.35, "five deviations"
    await replica.canary(2, weight=0.6)
    many = keys_of(await answers(replica), 2)
    assert few < many
    await replica.canary(2, weight=0.2)
    assert keys_of(await answers(replica), 2) == few, "the same keys as before"
    await replica.canary(3, weight=0.2)
    assert keys_of(await answers(replica), 3) == few, "of another canary, too"
    await replica.canary(3, weight=1.0)
    assert set((await answers(replica, range(50))).values()) == {3}
    ended = (await replica.canary(3, weight=0)).json()
    assert (ended["canary"], ended["generation"], ended["live_version"]) == (None, 7, 1)
    assert set((await answers(replica, range(50))).values()) == {1}
    assert (await replica.canary(None)).json()["changed"] is False


async def test_the_log_the_metrics_and_the_views_tell_the_canary(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    await replica.canary(2, weight=0.5)
    before = sample("relevo_serving_predictions_total", model="delays", version="2", role="canary")
    found = await answers(replica, range(60))
    await replica.predict(flight(1000, carrier="UA"), version=2)
    rows = await replica.shipped(61)
    roles = {int(row.key.removeprefix("AA-")): (row.role, row.pinned, row.version_number) for row in rows}
    assert roles.pop(1000) == ("pinned", True, 2)
    assert roles == {key: ("canary" if version == 2 else "live", False, version) for key, version in found.items()}
    assert {row.generation for row in rows} == {2}
    counted = sample("relevo_serving_predictions_total", model="delays", version="2", role="canary") - before
    assert counted == len(keys_of(found, 2))
    assert sample("relevo_serving_canary_version", model="delays") == 2
    assert sample("relevo_serving_canary_weight", model="delays") == 0.5
    view = (await replica.client.get("/admin/models/delays")).json()
    assert view["canary"] == view["applied_canary"] == {"version": 2, "share": 0.5}
    assert {slot["version"]: (slot["live"], slot["canary"]) for slot in view["loaded"]} == {
        1: (True, False),
        2: (False, True),
    }


async def test_the_entity_or_the_header_decides_and_a_request_is_answered_whole(
    versions: Registry, replica: Replica
) -> None:
    await replica.promote(1)
    await replica.canary(2, weight=0.5)
    by_tail = await answers(replica, range(30), tail="N14228")
    assert len(set(by_tail.values())) == 1, "all flights of a plane go together"
    rows = [flight(number, tail=f"N{number}", carrier="UA") for number in range(40)]
    scores = {row["score"] for row in (await replica.predict(*rows)).json()["predictions"]}
    assert len(scores) == 1
    by_key = await answers(replica, range(30))
    of_live, of_canary = (min(keys_of(by_key, version)) for version in (1, 2))
    for key, version in ((of_live, 1), (of_canary, 2)):
        whom = {"X-Relevo-Assignment-Key": f"AA-{key}"}
        body = {"instances": [flight(5000, tail="N14228")]}
        answer = await replica.client.post("/predict", json=body, headers=whom)
        assert answer.json()["model_version"] == version, "the header goes before what the instance says"
        tensors = [
            {"name": "flight", "datatype": "BYTES", "shape": [1], "data": [f"AA-{key}"]},
            {"name": "departs", "datatype": "INT64", "shape": [1], "data": [1_370_000_000_000_000]},
        ]
        answer = await replica.client.post("/v2/models/delays/infer", json={"inputs": tensors})
        assert answer.json()["model_version"] == str(version), "tensors are assigned as rows are"
        answer = await replica.client.post(
            "/v2/models/delays/infer",
            json={"inputs": tensors},
            headers={"X-Relevo-Assignment-Key": f"AA-{of_live}"},
        )
        assert answer.json()["model_version"] == "1"


async def test_a_canary_of_another_spec_reads_what_it_needs(registry: Registry, replica: Replica) -> None:
    registry.pipeline()
    registry.version(tiny_model(0.125))
    await replica.promote(1)
    gate, rank = {"type": "category", "vocabulary": 4}, {"type": "number", "required": True}
    registry.respec(features={"gate": gate, **SPEC["features"], "rank": rank})  # other fields, in another order
    registry.version(tiny_model(0.25, weight=1.0))
    assert (await replica.canary(2, weight=1.0)).json()["applied"]

    async def taken() -> bool:
        return (await replica.predict(flight(1, carrier="UA", rank=1))).status_code == 200

    await until(taken, "the new spec is known")
    before = sample("relevo_serving_canary_unread_total", model="delays")
    # Read again by the canary's fields, from plain JSON, from JSON that is read with care, and from many rows in a thread.
    for body in (
        [flight(2, carrier="UA", rank=3)],
        [flight(3, carrier="", rank=3)],
        [flight(number, carrier="UA", rank=3, note="x" * 100) for number in range(2000)],
    ):
        answer = (await replica.predict(*body)).json()
        assert answer["model_version"] == 2
        assert {row["score"] for row in answer["predictions"]} == {0.75}
    # What fits the live version alone is the live version's to answer.
    for body in ([flight(4, carrier="UA")], [flight(5, carrier="")]):
        answer = (await replica.predict(*body)).json()
        assert (answer["model_version"], answer["predictions"][0]["score"]) == (1, 0.125)
    assert sample("relevo_serving_canary_unread_total", model="delays") == before + 2
    (logged,) = [row for row in await replica.shipped(2005) if row.key == "AA-2"][:1]
    assert logged.instance == {"carrier": "UA", "distance": 500.0, "rank": 3.0}


async def test_promoting_ends_the_canary_and_so_does_a_roll_back(versions: Registry, replica: Replica) -> None:
    for version in (1, 2):
        await replica.promote(version)
    await replica.canary(3, weight=0.25)
    promoted = (await replica.promote(1)).json()
    assert promoted["canary"] == {"version": 3, "share": 0.25}, "another version's promotion leaves it"
    promoted = (await replica.promote(3)).json()
    assert (promoted["live_version"], promoted["previous_version"], promoted["canary"]) == (3, 1, None)
    assert replica.serving.slots.applied("delays") == Applied(5, 3)
    await replica.canary(2, weight=0.25)
    view = (await replica.client.get("/admin/models/delays")).json()
    assert view["previous_version"] == 1, "what was live before stays known, and loaded, beside a canary"
    back = (await replica.roll_back()).json()
    assert (back["live_version"], back["canary"]) == (1, None)
    story = [
        (change["action"], change["version"], change["canary"] and change["canary"]["version"])
        for change in reversed(await history(replica))
    ]
    assert story == [
        ("promote", 1, None), ("promote", 2, None), ("canary", 2, 3), ("promote", 1, 3), ("promote", 3, None),
        ("canary", 3, 2), ("rollback", 1, None),
    ]  # fmt: skip


async def test_the_history_tells_the_canary_of_a_moment(versions: Registry, replica: Replica) -> None:
    await replica.promote(1, effective_at="2013-03-01T00:00:00Z")
    await replica.canary(2, weight=0.25, effective_at="2013-04-01T00:00:00Z", reason="april")
    await replica.canary(None, effective_at="2013-05-01T00:00:00Z")
    for day, beside in (("2013-03-15", None), ("2013-04-15", {"version": 2, "share": 0.25}), ("2013-05-15", None)):
        last, *_ = await history(replica, at=f"{day}T00:00:00Z")
        assert (last["version"], last["canary"]) == (1, beside)


async def test_a_canary_needs_a_verdict_or_an_override(versions: Registry, replica: Replica) -> None:
    unjudged = versions.version(tiny_model(0.5), verdict=None)
    nothing = await replica.canary(unjudged, weight=0.1)
    assert (nothing.status_code, nothing.json()["type"]) == (409, "urn:relevo:problem:nothing-deployed")
    await replica.promote(1)
    refused = await replica.canary(unjudged, weight=0.1)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:relevo:problem:not-validated")
    assert "override" in refused.json()["detail"]
    answer = await replica.canary(unjudged, weight=0.1, override="one plane, one day")
    assert answer.status_code == 200, answer.text
    assert (await history(replica))[0]["override"] == "admin: one plane, one day"
    # The word holds for this canary, and for it alone.
    assert (await replica.canary(unjudged, weight=0.2)).status_code == 200
    assert (await history(replica))[0]["override"] == "admin: one plane, one day"
    assert (await replica.canary(2, weight=0.2)).status_code == 200
    assert (await history(replica))[0]["override"] is None
    assert (await replica.canary(unjudged, weight=0.2)).status_code == 409


async def test_a_canary_that_is_rejected_meanwhile_may_only_shrink(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    await replica.canary(2, weight=0.5)
    versions.judge(2, Decision.REJECT)
    refused = await replica.canary(2, weight=0.6)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:relevo:problem:not-validated")
    assert (await replica.canary(2, weight=0.1)).status_code == 200
    versions.judge(1, Decision.REJECT)  # of the live version: nothing that a canary is asked about
    assert (await replica.promote(3)).status_code == 200
    assert (await replica.canary(None)).status_code == 200


async def test_what_cannot_load_never_becomes_a_canary(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    broken = versions.version(b"damaged")
    for order, status, kind in (
        ({"version": broken, "weight": 0.5}, 409, "not-loadable"),
        ({"version": 99, "weight": 0.5}, 404, "not-found"),
        ({"version": 1, "weight": 0.5}, 422, "invalid"),
        ({"version": 2}, 422, "invalid"),
        ({"weight": 0.5}, 422, "invalid"),
        ({"version": 2, "weight": 1.5}, 422, "invalid"),
        ({"version": 2, "weight": 0.5, "expected_generation": 7}, 409, "generation-moved"),
    ):
        answer = await replica.client.post("/admin/models/delays/canary", json=order)
        assert (answer.status_code, answer.json()["type"]) == (status, f"urn:relevo:problem:{kind}"), order
    assert len(await history(replica)) == 1


async def test_a_replica_that_cannot_load_the_canary_answers_with_live_and_says_so(
    versions: Registry, replica: Replica
) -> None:
    await replica.promote(1)
    broken = versions.version(b"damaged")
    with versions.sessions.begin() as session:  # as another replica would, for which the artifact was sound
        version = session.exec(select(ModelVersion).where(ModelVersion.number == broken)).one()
        row = session.get_one(Deployment, version.pipeline_id)
        row.canary_version_id, row.canary_weight, row.generation = version.id, 1.0, 2
    await until(lambda: replica.serving.slots.applied("delays") == Applied(2, 1), "the change is applied")
    assert set((await answers(replica, range(20))).values()) == {1}
    ready = await replica.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert f"version {broken} of delays" in ready.json()["checks"]["canaries"]["detail"]
    assert sample("relevo_serving_canary_missing", model="delays") == 1
    view = (await replica.client.get("/admin/models/delays")).json()
    assert (view["canary"], view["applied_canary"]) == ({"version": broken, "share": 1.0}, None)


async def test_no_request_fails_while_canaries_come_and_go(versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    done = asyncio.Event()
    asked = 0

    async def ask(worker: int) -> None:
        nonlocal asked
        for number in count(worker * 100_000):
            if done.is_set():
                return
            answer = await replica.predict(flight(number, carrier="UA"))
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body["predictions"][0]["score"] == body["model_version"] / 8
            asked += 1
            await asyncio.sleep(0)

    asking = [asyncio.create_task(ask(worker)) for worker in range(3)]
    for turn in range(10):
        answer = await replica.canary(2 + turn % 2, weight=(turn % 4) / 4)
        assert answer.json()["applied"], answer.text
        enough = asked + 20
        await until(lambda enough=enough: asked >= enough, "answers of this generation")
    done.set()
    await asyncio.gather(*asking)
    rows = await replica.shipped(asked)
    changes = {change["generation"]: change for change in await history(replica)}
    for row in rows:
        change = changes[row.generation]
        wanted = change["version"] if row.role == "live" else change["canary"]["version"]
        assert row.version_number == wanted, "version, role and generation are of one moment"
    assert {row.role for row in rows} == {"live", "canary"}
