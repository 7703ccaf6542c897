"""Stages and removals end to end: ordered over HTTP, followed by replicas, in answers and in the log."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from services.serving.models.catalogue import Catalogue
from services.serving.postprocessing.removals import KEY, Removals
from services.serving.repository import read_catalogue
from tests.integration.serving.conftest import Replica, bearer, flight, running, until
from tests.integration.serving.registry import PREDICT_KEY, READ_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model

ADMIN = "/admin/models/delays"
LOG = """
select keys, scores, final_scores, stages_number, stages_spec, removals from prediction_requests order by request_id
"""


async def deployed(registry: Registry, replica: Replica, **spec: Any) -> None:
    """Version 1 scores distance / 1000 and 0.125 more for AA."""
    registry.pipeline(**spec)
    registry.version(tiny_model(0, weight=1))
    assert (await replica.promote(1)).json()["applied"]


async def order(replica: Replica, stages: list[Any] | None, **fields: Any) -> Any:
    return await replica.client.put(f"{ADMIN}/postprocessing", json={"stages": stages, "reason": "test", **fields})


async def remove(replica: Replica, *items: Any, **fields: Any) -> Any:
    return await replica.client.post(
        f"{ADMIN}/removals", json={"items": list(items), "reason": "court order", **fields}
    )


async def rank(replica: Replica, *candidates: Any, **fields: Any) -> Any:
    return await replica.client.post("/v1/models/delays/rank", json={"candidates": list(candidates), **fields})


async def log(replica: Replica, count: int) -> list[Any]:
    """The requests in the registry, once there are so many."""

    def rows() -> list[Any]:
        with replica.sessions.begin() as session:
            return list(session.execute(text(LOG)))

    await until(lambda: len(rows()) >= count, f"{count} requests in the registry")
    return rows()


def ua(number: int, distance: int, **fields: Any) -> dict[str, Any]:
    """Scores distance / 1000."""
    return flight(number, carrier="UA", distance=distance, **fields)


async def test_single_scores_are_processed_and_both_are_answered_and_logged(
    registry: Registry, replica: Replica
) -> None:
    await deployed(registry, replica)
    before = (await replica.predict(ua(1, 250))).json()
    assert before["predictions"][0].keys() == {"prediction_id", "key", "score"}
    assert "postprocessing" not in before
    stages = [{"type": "clip", "high": 0.75}, {"type": "threshold", "at": 0.5}, {"type": "top", "k": 1}]
    done = await order(replica, stages)
    assert done.json() == {"model": "delays", "number": 1, "changed": True, "applied": True}
    answer = (await replica.predict(ua(1, 250), ua(2, 1000))).json()
    assert answer["postprocessing"] == {"number": 1, "removals": 0}
    first, second = answer["predictions"]
    assert (first["score"], first["raw_score"], first["decision"]) == (0.25, 0.25, False)
    assert (second["score"], second["raw_score"], second["decision"]) == (0.75, 1.0, True)
    assert "removed" not in first

    plain, processed = await log(replica, 2)
    assert (plain.final_scores, plain.stages_number, plain.removals) == (None, None, None)
    assert (processed.scores, processed.final_scores) == ([0.25, 1.0], [0.25, 0.75])
    assert (processed.stages_number, processed.stages_spec, processed.removals) == (1, None, 0)


async def test_the_spec_s_stages_are_in_force_until_others_are_ordered(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica, postprocessing=[{"type": "clip", "low": 0.5}])
    answer = (await replica.predict(ua(1, 250))).json()
    assert answer["postprocessing"] == {"spec_version": 1, "removals": 0}
    assert answer["predictions"][0]["score"] == 0.5
    await order(replica, [])
    assert "postprocessing" not in (await replica.predict(ua(1, 250))).json()
    registry.respec(postprocessing=[{"type": "clip", "low": 0.75}])
    back = (await order(replica, None)).json()
    assert back["number"] == 2
    answer = (await replica.predict(ua(1, 250))).json()
    assert (answer["postprocessing"], answer["predictions"][0]["score"]) == ({"spec_version": 2, "removals": 0}, 0.75)
    view = (await replica.client.get(f"{ADMIN}/postprocessing")).json()
    assert (view["number"], view["spec_version"], view["newest_number"]) == (None, 2, 2)
    assert view["stages"] == [{"type": "clip", "low": 0.75, "high": None}]


async def test_a_list_is_filtered_boosted_made_diverse_and_explained(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    assert [item["key"] for item in (await rank(replica, ua(2, 100), ua(1, 100), ua(3, 200))).json()["items"]] == [
        "AA-3", "AA-1", "AA-2",
    ]  # fmt: skip
    stages = [
        {"type": "filter", "drop": {"field": "note", "one_of": ["sold"]}},
        {"type": "boost", "where": {"field": "tail", "one_of": ["N1"]}, "multiply": 2, "add": 0.25},
        {"type": "demote", "where": {"field": "distance", "at_least": 900}},
        {"type": "cap", "field": "note", "most": 1},
        {"type": "diversify", "k": 3, "fields": ["carrier"], "relevance_weight": 0.5},
    ]
    assert (await order(replica, stages)).json()["applied"]
    candidates = [
        ua(1, 500), ua(2, 400), ua(3, 125, tail="N1"), ua(4, 950), ua(5, 800, note="sold"),
        ua(6, 300, note="x"), ua(7, 200, note="x"), flight(8, distance=25),
    ]  # fmt: skip
    answer = (await rank(replica, *candidates, trace=True, k=2)).json()
    assert [(item["key"], item["position"]) for item in answer["items"]] == [("AA-1", 1), ("AA-8", 2)]
    assert answer["items"][1]["raw_score"] == pytest.approx(0.15)
    assert answer["items"][1]["trace"] == [{"stage": 4, "type": "diversify", "position": 2}]
    last = {item["key"]: item["trace"] and item["trace"][-1] for item in answer["dropped"]}
    assert last["AA-5"] == {"stage": 0, "type": "filter", "dropped": True}
    assert last["AA-7"] == {"stage": 3, "type": "cap", "dropped": True}
    boosted = next(item for item in answer["dropped"] if item["key"] == "AA-3")
    assert boosted["trace"][0] == {"stage": 1, "type": "boost", "score": 0.5}

    again = (await rank(replica, *reversed(candidates))).json()
    assert [item["key"] for item in again["items"]] == ["AA-1", "AA-8", "AA-3"]
    assert "dropped" not in again
    assert "trace" not in again["items"][0]
    rows = await log(replica, 3)
    assert rows[2].keys == [f"AA-{number}" for number in range(1, 9)]
    assert [key for key, final in zip(rows[2].keys, rows[2].final_scores, strict=True) if final is not None] == [
        "AA-1", "AA-3", "AA-8",
    ]  # fmt: skip
    assert rows[2].final_scores[2] == 0.5
    assert rows[2].scores[2] == 0.125
    assert rows[2].stages_number == 1


async def test_what_is_removed_is_in_no_later_answer(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    done = (await remove(replica, "AA-2", "AA-3")).json()
    assert done == {"model": "delays", "sequence": 1, "changed": 2, "applied": True}
    assert (await remove(replica, "AA-2")).json() == {**done, "changed": 0}
    by_note = (await remove(replica, 7, field="note")).json()
    assert (by_note["sequence"], by_note["changed"]) == (2, 1)

    listed = (await rank(replica, *(ua(number, 100 * number) for number in range(1, 5)), ua(9, 900, note="7"))).json()
    assert [item["key"] for item in listed["items"]] == ["AA-4", "AA-1"]
    assert listed["postprocessing"] == {"spec_version": 1, "removals": 2}
    single = (await replica.predict(ua(1, 100), ua(2, 200), ua(5, 500, note=7.0))).json()
    assert [row["score"] for row in single["predictions"]] == [pytest.approx(0.1), None, None]
    assert single["predictions"][1]["removed"] is True
    assert single["predictions"][1]["raw_score"] is None
    tensors = await replica.client.post(
        "/v2/models/delays/infer",
        json={
            "inputs": [
                {"name": "flight", "datatype": "BYTES", "shape": [2], "data": ["AA-1", "AA-2"]},
                {"name": "departs", "datatype": "INT64", "shape": [2], "data": [10**15, 10**15]},
            ],
            "outputs": [{"name": "score"}],
        },
    )
    assert tensors.json()["outputs"][0]["data"] == [0.0, None]
    rows = await log(replica, 3)
    assert rows[1].final_scores == [pytest.approx(0.1), None, None]
    assert rows[1].scores[1] == pytest.approx(0.2), "the raw score is kept"
    assert {row.removals for row in rows} == {2}

    view = (await replica.client.get(f"{ADMIN}/removals")).json()
    assert (view["sequence"], view["count"]) == (2, 3)
    assert view["removed"] == [{"field": "flight", "items": ["AA-2", "AA-3"]}, {"field": "note", "items": ["7"]}]
    assert (await replica.client.get(ADMIN)).json()["applied_postprocessing"] == {
        "number": None, "spec_version": 1, "removals": 2,
    }  # fmt: skip
    back = await replica.client.post(f"{ADMIN}/removals/reinstate", json={"items": ["AA-2"], "reason": "appeal"})
    assert back.json() == {"model": "delays", "sequence": 3, "changed": 1, "applied": True}
    assert (await replica.predict(ua(2, 250))).json()["predictions"][0]["score"] == 0.25
    story = (await replica.client.get(f"{ADMIN}/removals/history", params={"limit": 2})).json()
    assert [(change["sequence"], change["action"], change["items"]) for change in story["items"]] == [
        (3, "reinstate", ["AA-2"]), (2, "remove", ["7"]),
    ]  # fmt: skip
    assert (story["items"][0]["actor"], story["items"][0]["reason"]) == ("admin", "appeal")
    rest = await replica.client.get(f"{ADMIN}/removals/history", params={"after": story["next"]})
    assert [change["items"] for change in rest.json()["items"]] == [["AA-2", "AA-3"]]


async def test_no_answer_after_the_removal_s_holds_the_item_while_others_ask(
    registry: Registry, replica: Replica
) -> None:
    """20 times: lists are asked for all the time; whoever asks after the removal was answered never sees the item."""
    await deployed(registry, replica)
    gone: set[str] = set()
    asked = 0
    done = asyncio.Event()

    async def ask() -> None:
        nonlocal asked
        while not done.is_set():
            known = set(gone)
            answer = await rank(replica, *(ua(number, 10 * number) for number in range(1, 31)))
            assert answer.status_code == 200
            assert not known & {item["key"] for item in answer.json()["items"]}
            asked += 1

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    for number in range(1, 21):
        assert (await remove(replica, f"AA-{number}")).json()["applied"]
        gone.add(f"AA-{number}")
    done.set()
    await asyncio.gather(*asking)
    assert asked > 20


async def test_other_replicas_follow(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    async with running(replica.sessions) as other:
        await remove(replica, "AA-1")
        await order(replica, [{"type": "clip", "high": 0.25}])
        place = other.serving.configurations.of("delays")
        await until(lambda: (place.all.removals.sequence, place.all.number) == (1, 1), "the other replica follows")
        await until(lambda: other.serving.slots.applied("delays") is not None, "the other replica answers")
        answer = (await other.predict(ua(1, 500), ua(2, 500))).json()
        assert [row["score"] for row in answer["predictions"]] == [None, 0.25]


async def test_stages_change_by_compare_and_set_and_have_a_story(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    stages = [{"type": "clip", "low": 0.1}]
    assert (await order(replica, stages, expected_number=0)).json()["number"] == 1
    assert (await order(replica, stages, expected_number=0)).json()["changed"] is False
    stale = await order(replica, [], expected_number=0)
    assert (stale.status_code, stale.json()["type"]) == (409, "urn:relevo:problem:stages-moved")
    assert "number 1" in stale.json()["detail"]
    answers = await asyncio.gather(
        *(order(replica, [{"type": "top", "k": k}], expected_number=1) for k in range(1, 11))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    story = (await replica.client.get(f"{ADMIN}/postprocessing/history")).json()["items"]
    assert [(change["number"], change["actor"], change["reason"]) for change in story] == [
        (2, "admin", "test"), (1, "admin", "test"),
    ]  # fmt: skip
    assert story[1]["stages"] == [{"type": "clip", "low": 0.1, "high": None}]


async def test_what_is_wrong_is_named(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    for stages, where in (
        ([{"type": "cap", "field": "seller", "most": 2}], ["body", "stages", 0, "field"]),
        ([{"type": "top", "k": 1}, {"type": "filter", "keep": {"field": "x", "one_of": [1]}}],
         ["body", "stages", 1, "keep", "field"]),
        ([{"type": "diversify", "k": 2, "vector": "carrier"}], ["body", "stages", 0, "vector"]),
        ([{"type": "diversify", "k": 2, "fields": ["carrier"]}, {"type": "clip", "low": 0}], ["body", "stages", 1]),
    ):  # fmt: skip
        answer = await order(replica, stages)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["loc"] == where
    assert (await remove(replica, "x", field="seller")).json()["errors"][0]["loc"] == ["body", "field"]
    twice = await rank(replica, ua(1, 1), ua(2, 1), ua(1, 2))
    assert twice.json()["errors"] == [
        {"loc": ["body", "candidates", 2], "msg": "has the key of candidate 0; send each item once"}
    ]
    wrong = await rank(replica, {**ua(1, 1), "distance": "far"}, k=0)
    assert wrong.json()["errors"][0]["loc"] == ["body", "k"]
    wrong = await rank(replica, ua(2, 1), {**ua(1, 1), "distance": "far"})
    assert wrong.json()["errors"][0]["loc"] == ["body", "candidates", 1, "distance"]
    as_viewer = {"headers": bearer(READ_KEY)}
    assert (await replica.client.get(f"{ADMIN}/removals", **as_viewer)).status_code == 200
    assert (await replica.client.post(f"{ADMIN}/removals", json={}, **as_viewer)).status_code == 403
    listed = await replica.client.post(
        "/v1/models/delays/rank", json={"candidates": [ua(1, 1)]}, headers=bearer(PREDICT_KEY)
    )
    assert listed.status_code == 200


@pytest.mark.parametrize("requests", [60, pytest.param(2_000, marks=pytest.mark.slow)])
async def test_a_removed_item_is_in_no_list_however_it_is_asked_for(
    registry: Registry, replica: Replica, requests: int
) -> None:
    await deployed(registry, replica)
    draw = np.random.default_rng(5)
    gone: set[int] = set()
    for number in range(requests):
        if number % 20 == 0:
            items = {int(item) for item in draw.integers(0, 60, 3)}
            assert (await remove(replica, *(f"AA-{item}" for item in items))).json()["applied"]
            gone |= items
            await order(replica, [{"type": "cap", "field": "carrier", "most": int(draw.integers(1, 30))}])
        chosen = draw.permutation(60)[: int(draw.integers(1, 60))].tolist()
        answer = (await rank(replica, *(ua(item, int(draw.integers(0, 900))) for item in chosen))).json()
        assert not {f"AA-{item}" for item in gone} & {item["key"] for item in answer["items"]}


async def test_a_registry_restored_to_an_earlier_moment_forgets_no_removal_here(
    registry: Registry, replica: Replica
) -> None:
    """A replica that knows change 5 meets a registry that is at change 1."""
    await deployed(registry, replica)
    await remove(replica, "AA-1")
    pipeline = replica.serving.follower.catalogue.pipelines["delays"]
    ahead = replace(pipeline, removals=Removals(5, {KEY: frozenset({"AA-9"})}))
    with replica.sessions.begin() as session:
        read = read_catalogue(session, Catalogue({"delays": ahead})).pipelines["delays"].removals
    with replica.sessions.begin() as session:
        again = read_catalogue(session, Catalogue({"delays": replace(pipeline, removals=read)}))
    assert read == Removals(1, {KEY: frozenset({"AA-1", "AA-9"})})
    assert again.pipelines["delays"].removals is read, "from then on it is followed as ever"


async def test_the_stories_are_never_rewritten(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    await remove(replica, "AA-1")
    await order(replica, [])
    for statement in (
        "delete from removal_history", "update removal_history set items = '{}'", "truncate removal_history",
        "delete from stages_history", "update stages_history set reason = ''", "truncate stages_history",
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="append-only"), replica.sessions.begin() as session:
            session.execute(text(statement))


async def test_a_list_is_the_canary_s_when_its_key_says_so(registry: Registry, replica: Replica) -> None:
    await deployed(registry, replica)
    registry.version(tiny_model(0.5))
    canary = await replica.client.post(f"{ADMIN}/canary", json={"version": 2, "weight": 1})
    assert canary.json()["applied"], canary.text
    answer = (await rank(replica, ua(1, 100), ua(2, 100))).json()
    assert answer["model_version"] == 2
    assert {item["raw_score"] for item in answer["items"]} == {0.5}
