"""Promote and roll back: compare-and-set, verdicts, what cannot load never becomes live, no request fails meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import select

from shared.registry.states import Decision, VersionState
from shared.registry.tables import ModelVersion
from tests.integration.serving.conftest import Replica, bearer, flight, running, until
from tests.integration.serving.registry import READ_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model


@pytest.fixture
def three_versions(registry: Registry) -> Registry:
    """Version n of `delays` answers n/8."""
    registry.pipeline()
    for number in (1, 2, 3):
        registry.version(tiny_model(number / 8))
    return registry


async def test_no_request_fails_in_swaps_and_each_answer_is_that_of_its_version(
    three_versions: Registry, replica: Replica
) -> None:
    assert (await replica.promote(1)).status_code == 200
    done = asyncio.Event()
    answers: list[tuple[int, float, int]] = []

    async def ask(worker: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            rows = [flight(worker * 1_000_000 + number * 10 + row, carrier="UA") for row in range(1 + number % 40)]
            answer = await replica.predict(*rows)
            assert answer.status_code == 200, answer.text
            body = answer.json()
            scores = {row["score"] for row in body["predictions"]}
            assert scores == {body["model_version"] / 8}, "every row of a request is of one version"
            answers.extend((body["model_version"], row["score"], len(rows)) for row in body["predictions"])
            await asyncio.sleep(0)

    asking = [asyncio.create_task(ask(worker)) for worker in range(3)]
    for swap in range(12):
        if swap % 4 == 3:
            answer = await replica.roll_back()
        else:
            answer = await replica.promote(1 + swap % 3)
        assert answer.json()["applied"], answer.text
    done.set()
    await asyncio.gather(*asking)
    assert {version for version, _, _ in answers} == {1, 2, 3}

    rows = await replica.shipped(len(answers))
    assert len(rows) == len(answers)
    assert all(row.score == row.version_number / 8 for row in rows)
    assert len({(row.request_id, row.row_index) for row in rows}) == len(rows)
    versions_by_generation = {change["generation"]: change["version"] for change in await history(replica)}
    assert all(versions_by_generation[row.generation] == row.version_number for row in rows)


async def history(replica: Replica, **query: Any) -> list[dict[str, Any]]:
    answer = await replica.client.get("/admin/models/delays/history", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_fifty_at_once_with_one_generation_make_one_change(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    answers = await asyncio.gather(*(replica.promote(2 + number % 2, expected_generation=1) for number in range(50)))
    changed = [answer.json() for answer in answers if answer.status_code == 200 and answer.json()["changed"]]
    assert len(changed) == 1
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {409}
    assert {answer.json()["type"] for answer in refused} == {"urn:relevo:problem:generation-moved"}
    winner = changed[0]["live_version"]
    # Those who asked for what won are told that it is so; their repeated request is no second change.
    assert all(answer.json()["live_version"] == winner for answer in answers if answer.status_code == 200)
    assert len(await history(replica)) == 2


async def test_a_stale_generation_is_told_what_is_live(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    await replica.promote(2)
    answer = await replica.promote(3, expected_generation=1)
    assert answer.status_code == 409
    assert "generation 2" in answer.json()["detail"]
    assert "version 2 is live" in answer.json()["detail"]
    assert (await replica.promote(3, expected_generation=0)).status_code == 409
    assert (await replica.promote(3, expected_generation=2)).json()["generation"] == 3


async def test_a_repeated_promotion_changes_nothing(three_versions: Registry, replica: Replica) -> None:
    first = (await replica.promote(1, expected_generation=0)).json()
    again = (await replica.promote(1, expected_generation=0)).json()
    assert again == {**first, "changed": False}
    assert len(await history(replica)) == 1


async def test_without_a_verdict_only_a_named_override_promotes(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    candidate = three_versions.version(tiny_model(0.9), verdict=None)
    rejected = three_versions.version(tiny_model(0.9), verdict=Decision.REJECT)
    for version, says in ((candidate, "No verdict promotes"), (rejected, "was rejected")):
        answer = await replica.promote(version)
        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:relevo:problem:not-validated"
        assert says in answer.json()["detail"]
        assert "override" in answer.json()["detail"]
    answer = await replica.promote(rejected, override="the gate's test week was a blizzard")
    assert answer.status_code == 200
    last, *_ = await history(replica)
    assert (last["override"], last["actor"]) == ("admin: the gate's test week was a blizzard", "admin")
    assert (await replica.predict()).json()["model_version"] == rejected
    assert (await replica.roll_back()).json()["live_version"] == 1


async def test_what_cannot_load_never_becomes_live(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    broken = {
        "not a model": three_versions.version(b"damaged"),
        "missing": three_versions.version(tiny_model(0.7), stored=False),
        "of another signature": three_versions.version(
            tiny_model(0.6),
            signature={"inputs": [{"name": "x", "kind": "number"}], "output": "score", "task": "binary"},
        ),
    }
    for what, version in broken.items():
        answer = await replica.promote(version)
        assert answer.status_code == 409, what
        assert answer.json()["type"] == "urn:relevo:problem:not-loadable"
        assert f"Version {version}" in answer.json()["detail"]
    assert (await replica.predict()).json()["model_version"] == 1
    assert (await replica.client.get("/admin/models/delays")).json()["generation"] == 1
    assert len(await history(replica)) == 1


async def test_rolling_back_goes_back_through_what_was_live(three_versions: Registry, replica: Replica) -> None:
    assert (await replica.roll_back()).status_code == 409
    for version in (1, 2, 3):
        await replica.promote(version, reason=f"cycle {version}")
    assert (await replica.roll_back(expected_generation=2)).status_code == 409
    first = (await replica.roll_back(expected_generation=3)).json()
    assert (first["live_version"], first["generation"], first["previous_version"]) == (2, 4, 3)
    assert (await replica.roll_back()).json()["live_version"] == 1
    nothing = await replica.roll_back()
    assert nothing.json()["type"] == "urn:relevo:problem:nothing-to-roll-back"
    assert [(change["action"], change["version"]) for change in await history(replica)] == [
        ("rollback", 1), ("rollback", 2), ("promote", 3), ("promote", 2), ("promote", 1),
    ]  # fmt: skip


async def test_a_repeated_roll_back_goes_back_once(three_versions: Registry, replica: Replica) -> None:
    for version in (1, 2, 3):
        await replica.promote(version)
    first = (await replica.roll_back(expected_generation=3)).json()
    again = (await replica.roll_back(expected_generation=3)).json()
    assert first["live_version"] == 2
    assert again == {**first, "changed": False}
    await replica.promote(3)
    stale = await replica.roll_back(expected_generation=4)
    assert stale.json()["type"] == "urn:relevo:problem:generation-moved", "the one change since was no roll back"
    assert [change["version"] for change in await history(replica)] == [3, 2, 3, 2, 1]


async def test_the_newest_verdict_counts(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    three_versions.judge(2, Decision.REJECT)
    answer = await replica.promote(2)
    assert answer.json()["type"] == "urn:relevo:problem:not-validated"
    assert "was rejected" in answer.json()["detail"]
    assert (await replica.promote(2, override="the reject was of a bad week")).status_code == 200
    # Going back needs no verdict, and says on whose word it was done.
    await replica.promote(3)
    assert (await replica.roll_back(reason="3 is slow")).json()["live_version"] == 2
    last, *_ = await history(replica)
    assert (last["override"], last["validation"]) == ("admin: roll back: 3 is slow", None)


async def test_no_verdict_refuses_a_roll_back(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(2)
    await replica.promote(3)
    three_versions.judge(2, Decision.REJECT)
    with (
        three_versions.sessions.begin() as session
    ):  # the database goes by the newest verdict, not by the version's state
        session.exec(select(ModelVersion).where(ModelVersion.number == 2)).one().state = VersionState.VALIDATED
    answer = await replica.roll_back(reason="3 is slow")
    assert answer.status_code == 200, answer.text
    assert answer.json()["live_version"] == 2
    last, *_ = await history(replica)
    assert last["override"] == "admin: roll back: 3 is slow"


async def test_the_history_tells_what_was_live_then(three_versions: Registry, replica: Replica) -> None:
    for month, version in ((3, 1), (4, 2), (5, 3)):
        await replica.promote(version, effective_at=f"2013-0{month}-01T00:00:00Z")
    at = datetime(2013, 4, 15, tzinfo=UTC)
    assert [change["version"] for change in await history(replica, at=at.isoformat())] == [2, 1]
    assert await history(replica, at=(at - timedelta(days=365)).isoformat()) == []
    assert [change["version"] for change in await history(replica, limit=1)] == [3]
    assert [change["version"] for change in await history(replica, limit=1, after=3)] == [2]


async def test_the_admin_view_tells_pointer_and_slots(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    await replica.promote(2)
    await replica.predict(version=3)
    await until(lambda: len(replica.serving.slots.report("delays")) == 3, "three versions are held")
    view = (await replica.client.get("/admin/models/delays", headers=bearer(READ_KEY))).json()
    assert (view["live_version"], view["generation"], view["previous_version"]) == (2, 2, 1)
    assert (view["applied_version"], view["applied_generation"]) == (2, 2)
    loaded = {slot["version"]: (slot["state"], slot["live"], slot["pinned"]) for slot in view["loaded"]}
    assert loaded == {1: ("ready", False, False), 2: ("ready", True, False), 3: ("ready", False, True)}
    listed = (await replica.client.get("/admin/models")).json()["items"]
    assert [item["model"] for item in listed] == ["delays"]


async def test_a_promotion_by_another_replica_is_followed(three_versions: Registry, replica: Replica) -> None:
    await replica.promote(1)
    async with running(three_versions.sessions) as other:
        assert other.serving.follower is not replica.serving.follower
        await until(lambda: other.serving.slots.applied("delays") is not None, "the other replica answers")
        await replica.promote(2)
        await until(lambda: other.serving.slots.applied("delays").generation == 2, "the other replica follows")  # type: ignore[union-attr]
        assert (await other.predict()).json()["model_version"] == 2


async def test_a_damaged_artifact_that_became_live_elsewhere_leaves_the_old_one_answering(
    three_versions: Registry, replica: Replica
) -> None:
    """The pointer can move past this replica's check: another replica's store may have held a good copy."""
    await replica.promote(1)
    version = three_versions.version(tiny_model(0.7))
    with three_versions.sessions.begin() as session:
        session.execute(
            text(
                "update deployments set generation = 2, live_version_id = (select id from versions where number = :n)"
            ),
            {"n": version},
        )
        session.execute(
            text("update versions set digest = :digest where number = :n"), {"n": version, "digest": "0" * 64}
        )
    await until(
        lambda: any(slot.error for slot in replica.serving.slots.report("delays")), "the damaged version is tried"
    )
    assert (await replica.predict()).json()["model_version"] == 1
    view = (await replica.client.get("/admin/models/delays")).json()
    assert (view["live_version"], view["applied_version"]) == (version, 1)
    (failed,) = [slot for slot in view["loaded"] if slot["state"] == "failed"]
    assert "no artifact" in failed["error"]
    assert (await replica.client.get("/readyz")).status_code == 200, "the old version answers"
