"""The follower between registry and slots: what it does when either is in trouble."""

import threading
import uuid
from pathlib import Path

import pytest

from services.serving.models import follower as module
from services.serving.models.catalogue import Catalogue, Pipeline, Pointer
from services.serving.models.follower import Follower
from services.serving.models.loader import Loaded
from services.serving.models.slots import ModelSlots
from tests.unit.serving.tiny_model import SPEC

DEADLINE_S = 30


def test_one_pipeline_in_trouble_does_not_keep_the_others_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def load(pipeline: Pipeline, number: int) -> Loaded:
        asked.set()
        raise AssertionError("not this test's concern")

    class Troubled(ModelSlots):
        def advance(self, pipeline: Pipeline) -> None:
            if pipeline.name == "broken":
                raise ValueError("a spec that this release cannot read")
            super().advance(pipeline)

    told: list[str] = []
    monkeypatch.setattr(module.log, "exception", lambda _, model: told.append(model))
    known = Catalogue(
        {name: Pipeline(uuid.uuid4(), name, 1, {1: SPEC}, {}, Pointer(1, 1)) for name in ("broken", "sound")}
    )
    slots = Troubled(load, pinned_limit=1)
    follower = Follower(lambda _: known, slots, tmp_path, poll_s=60)
    follower.start()
    try:
        assert asked.wait(DEADLINE_S), "the sound pipeline's version is loaded"
        assert "broken" in told
    finally:
        follower.stop()
        slots.close()


def test_trouble_beside_the_models_does_not_end_the_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = threading.Event()
    seen: list[Catalogue] = []

    def also(catalogue: Catalogue) -> None:
        seen.append(catalogue)
        if len(seen) > 1:
            again.set()
        raise ValueError("a file that is not there")

    monkeypatch.setattr(module.log, "exception", lambda _: None)
    slots = ModelSlots(lambda pipeline, number: pytest.fail("nothing is deployed"), pinned_limit=1)
    follower = Follower(lambda known: known, slots, tmp_path, poll_s=0.01, also=also)
    follower.start()
    try:
        assert again.wait(DEADLINE_S)
    finally:
        follower.stop()
        slots.close()
