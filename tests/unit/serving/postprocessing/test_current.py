"""What is in force: from the registry's word to compiled plans, through a restart, past stages that this release does not know."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.serving.models import state_file
from services.serving.models.catalogue import Catalogue, Pipeline, StagesOrder
from services.serving.models.follower import Follower
from services.serving.models.slots import ModelSlots
from services.serving.postprocessing.columns import text_of
from services.serving.postprocessing.current import Configurations
from services.serving.postprocessing.plan import Plan
from services.serving.postprocessing.removals import KEY, Change, Items, Removals
from shared.spec.postprocessing import Stage
from tests.unit.serving.tiny_model import SPEC

CLIP = {"type": "clip", "low": 0.5, "high": None}


def pipeline(**fields: Any) -> Pipeline:
    return Pipeline(uuid.UUID(int=1), "delays", 1, {1: fields.pop("spec", SPEC)}, **fields)


def test_the_list_is_what_its_changes_add_up_to() -> None:
    changes = [
        Change(1, True, KEY, ["a", "b"]),
        Change(2, True, "note", ["7"]),
        Change(3, False, KEY, ["a", "c"]),
        Change(4, False, "note", ["7"]),
    ]
    whole = Removals().after(changes)
    assert whole == Removals(4, {KEY: frozenset({"b"})})
    assert whole == Removals().after(changes[:2]).after(changes[2:])
    assert whole.after([]) is whole
    assert whole.count == 1


def test_values_that_mean_one_item_are_one_text() -> None:
    assert {text_of(7), text_of(7.0), text_of("7")} == {"7"}
    assert [text_of(value) for value in (7.5, True, False, None, -0.0, "")] == ["7.5", "true", "false", None, "0", ""]


def test_the_newest_order_is_in_force_else_the_spec_s_stages() -> None:
    configurations = Configurations()
    now = configurations.of("delays")
    assert now.single is None
    configurations.follow(pipeline())
    assert (now.all.number, now.all.spec_version, now.single) == (None, 1, None)
    configurations.follow(pipeline(spec={**SPEC, "postprocessing": [CLIP]}, removals=Removals(1, {})))
    assert now.single is not None
    assert (now.single.number, now.single.spec_version, now.single.removals.sequence) == (None, 1, 1)
    configurations.follow(pipeline(stages_order=StagesOrder(4, [{"type": "top", "k": 3}])))
    assert (now.all.number, now.all.spec_version) == (4, None)
    assert now.single is None, "lists alone are touched"
    assert now.all.plan.touches_lists
    configurations.follow(pipeline(stages_order=StagesOrder(5, None)))
    assert (now.all.number, now.all.spec_version, now.all.newest) == (None, 1, 5)


def test_stages_of_a_newer_release_leave_those_before_in_force_and_never_hold_up_a_removal() -> None:
    configurations = Configurations()
    configurations.follow(pipeline(stages_order=StagesOrder(1, [CLIP])))
    configurations.follow(
        pipeline(stages_order=StagesOrder(2, [{"type": "oracle"}]), removals=Removals(9, {KEY: frozenset({"a"})}))
    )
    now = configurations.of("delays").all
    assert (now.number, now.newest, now.removals.sequence) == (1, 2, 9)
    assert now.plan.items == {KEY: frozenset({"a"})}
    assert now.problem is not None
    assert "not known to this release" in now.problem


def test_stages_that_cannot_be_compiled_never_hold_up_a_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Plan):
        def __init__(self, stages: Sequence[Stage], items: Items) -> None:
            if stages:
                raise ZeroDivisionError
            super().__init__(stages, items)

    monkeypatch.setattr("services.serving.postprocessing.current.Plan", Broken)
    configurations = Configurations()
    configurations.follow(pipeline(stages_order=StagesOrder(2, [CLIP]), removals=Removals(9, {KEY: frozenset({"a"})})))
    now = configurations.of("delays")
    assert now.single is not None, "a fresh replica removes what the list names"
    assert (now.all.plan.items, now.all.number, now.all.newest) == ({KEY: frozenset({"a"})}, None, 2)
    assert "ZeroDivisionError" in (now.all.problem or "")


def test_who_waits_hears_of_it_once_it_is_in_force() -> None:
    configurations = Configurations()
    waiting = configurations.when("delays", lambda now: now.removals.sequence >= 2)
    configurations.follow(pipeline(removals=Removals(1, {})))
    assert not waiting.done()
    configurations.follow(pipeline(removals=Removals(3, {})))
    assert waiting.done()
    assert configurations.when("delays", lambda now: now.removals.sequence >= 2).done()


def test_a_start_without_the_registry_applies_what_was_known(tmp_path: Path) -> None:
    known = Catalogue(
        {
            "delays": pipeline(
                stages_order=StagesOrder(3, [CLIP]),
                removals=Removals(8, {KEY: frozenset({"a", "b"}), "note": frozenset({"7"})}),
            )
        }
    )
    state_file.save(tmp_path, known, datetime.now(UTC))

    def away(_: Catalogue) -> Catalogue:
        raise ConnectionError("no registry")

    def load(*_: object) -> Any:
        raise AssertionError("nothing is deployed")

    configurations, slots = Configurations(), ModelSlots(load, pinned_limit=1)
    follower = Follower(away, slots, tmp_path, poll_s=60, prepare=configurations.follow)
    follower.start()
    try:
        now = configurations.of("delays").all  # at once: before anything answers
        assert (now.number, now.removals) == (3, known.pipelines["delays"].removals)
        assert follower.catalogue == known
    finally:
        follower.stop()
        slots.close()
