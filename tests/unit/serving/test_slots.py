"""Slots with real models: leases outlive switches, loads are shared, failures keep the old version."""

import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.serving.errors import NotLoadable
from services.serving.models import state_file
from services.serving.models.catalogue import Catalogue, Pipeline, Pointer, Share, Version, from_document, to_document
from services.serving.models.loader import Loaded, Loader
from services.serving.models.policy import Applied, SlotState
from services.serving.models.recent import RecentRequests
from services.serving.models.slots import ModelSlots
from services.serving.roles import Role
from shared.artifacts import open_store
from shared.errors import NotFound
from tests.unit.serving.tiny_model import SIGNATURE, SPEC, tiny_model

DEADLINE_S = 30


class Harness:
    """A pipeline of versions 1 to 4, of which 3 is damaged, and slots with a real loader that can be held up."""

    def __init__(self, folder: Path) -> None:
        store = open_store(f"file://{folder}/artifacts")
        digests = {number: store.put_bytes(tiny_model(number / 8)) for number in (1, 2, 4)}
        digests[3] = store.put_bytes(b"damaged")
        versions = {
            number: Version(
                id=uuid.UUID(int=number), number=number, state="validated", digest=digest, signature=SIGNATURE, spec_version=1,
                train_end=datetime(2013, 1, 1, tzinfo=UTC), train_label_mean=0.25,
            )
            for number, digest in digests.items()
        }  # fmt: skip
        self.pipeline = Pipeline(uuid.UUID(int=99), "delays", 1, {1: SPEC}, versions, None)
        self.loader = Loader(store, folder / "cache", threads=1, recent=RecentRequests(4), max_instances=100)
        self.go = threading.Event()
        self.go.set()
        self.loads: list[int] = []
        self.now_s = 0.0
        self.slots = ModelSlots(self.load, pinned_limit=1, clock=lambda: self.now_s)

    def load(self, pipeline: Pipeline, number: int) -> Loaded:
        self.loads.append(number)
        assert self.go.wait(DEADLINE_S)
        return self.loader.load(pipeline, number)

    def point(self, generation: int, live: int, previous: int | None = None, canary: Share | None = None) -> None:
        """Move the pointer and let everything settle."""
        self.pipeline = replace(self.pipeline, pointer=Pointer(generation, live, previous, canary))
        self.settle()

    def settle(self) -> None:
        for _ in range(10):
            self.slots.changed.clear()
            self.slots.advance(self.pipeline)
            if all(slot.state is not SlotState.LOADING for slot in self.slots.report("delays")):
                self.slots.advance(self.pipeline)
                return
            assert self.slots.changed.wait(DEADLINE_S)

    def versions(self) -> dict[int, SlotState]:
        return {slot.version: slot.state for slot in self.slots.report("delays")}


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.go.set()
    made.slots.close()


def test_the_first_version_answers_once_it_is_loaded(harness: Harness) -> None:
    assert harness.slots.lease_live("delays") is None
    harness.point(1, 1)
    with harness.slots.lease_live("delays") as lease:  # type: ignore[union-attr]
        assert (lease.loaded.version.number, lease.generation, lease.role) == (1, 1, Role.LIVE)


def test_a_request_finishes_on_the_version_it_began_with(harness: Harness) -> None:
    harness.point(1, 1)
    lease = harness.slots.lease_live("delays")
    assert lease is not None
    with lease:
        harness.point(2, 2, 1)
        harness.point(3, 4, 2)
        assert harness.versions() == {1: SlotState.DRAINING, 2: SlotState.READY, 4: SlotState.READY}
        assert lease.loaded.version.number == 1
        assert harness.slots.applied("delays") == Applied(3, 4)
    harness.settle()
    assert harness.versions() == {2: SlotState.READY, 4: SlotState.READY}


def test_a_damaged_version_keeps_the_old_one_answering_and_is_tried_again_later(harness: Harness) -> None:
    harness.point(1, 1)
    harness.point(2, 3, 1)
    assert harness.slots.applied("delays") == Applied(1, 1)
    (failed,) = [slot for slot in harness.slots.report("delays") if slot.version == 3]
    assert failed.state is SlotState.FAILED
    assert failed.error is not None
    assert "not an ONNX file" in failed.error
    assert harness.loads == [1, 3]
    harness.settle()
    assert harness.loads == [1, 3], "not before it is due"
    harness.now_s = 2.0
    harness.settle()
    assert harness.loads == [1, 3, 3]
    harness.point(3, 2, 1)
    assert harness.slots.applied("delays") == Applied(3, 2)


def test_an_older_generation_changes_nothing(harness: Harness) -> None:
    harness.point(5, 2)
    harness.point(4, 1)
    assert harness.slots.applied("delays") == Applied(5, 2)
    assert harness.versions() == {2: SlotState.READY}


def test_callers_at_the_same_time_share_one_load(harness: Harness) -> None:
    harness.go.clear()
    futures = [harness.slots.begin_load(harness.pipeline, 1) for _ in range(5)]
    harness.go.set()
    for future in futures:
        future.result(DEADLINE_S)
    assert harness.loads == [1]
    assert harness.slots.hold("delays", 1) is not None


def test_a_version_that_failed_a_moment_ago_is_not_tried_for_each_request(harness: Harness) -> None:
    for _ in range(3):
        with pytest.raises(NotLoadable):
            harness.slots.begin_load(harness.pipeline, 3).result(DEADLINE_S)
    assert harness.loads == [3]
    with pytest.raises(NotLoadable):
        harness.slots.begin_load(harness.pipeline, 3, retry_now=True).result(DEADLINE_S)
    assert harness.loads == [3, 3]


def test_a_version_that_does_not_exist_is_not_found(harness: Harness) -> None:
    with pytest.raises(NotFound):
        harness.slots.begin_load(harness.pipeline, 7).result(DEADLINE_S)


def test_named_versions_stay_until_others_are_named(harness: Harness) -> None:
    harness.point(1, 1)
    for number in (2, 4):
        harness.slots.begin_load(harness.pipeline, number).result(DEADLINE_S)
    assert harness.slots.lease_pinned("delays", 2) is not None
    lease = harness.slots.lease_pinned("delays", 4)
    assert lease is not None
    with lease:
        assert lease.role is Role.PINNED
    harness.settle()
    assert harness.versions() == {1: SlotState.READY, 2: SlotState.DRAINING, 4: SlotState.READY}


def test_whoever_waits_for_a_generation_is_told(harness: Harness) -> None:
    early, later = harness.slots.when_applied("delays", 2), harness.slots.when_applied("delays", 3)
    gone = harness.slots.when_applied("delays", 1)
    gone.cancel()
    harness.point(2, 1)
    assert early.done()
    assert not later.done()
    assert harness.slots.when_applied("delays", 1).done()


def test_live_and_canary_are_of_one_generation(harness: Harness) -> None:
    harness.point(1, 1)
    harness.point(2, 1, canary=Share(2, 0.25))
    live = harness.slots.lease_live("delays")
    assert live is not None
    assert (live.role, live.canary) == (Role.LIVE, Share(2, 0.25))
    with live, harness.slots.lease_canary(live) as canary:  # type: ignore[union-attr]
        assert (canary.loaded.version.number, canary.generation, canary.role) == (2, 2, Role.CANARY)
        harness.point(3, 1, canary=Share(4, 0.5))
        assert harness.versions()[2] is SlotState.DRAINING, "ended, and finishing what it began"
    harness.settle()
    assert harness.versions() == {1: SlotState.READY, 4: SlotState.READY}
    assert harness.slots.lease_canary(live) is None, "gone: the live version answers"
    metric = REGISTRY.get_sample_value("relevo_serving_canary_weight", {"model": "delays"})
    assert metric == 0.5


def test_a_canary_that_cannot_be_loaded_leaves_the_live_version_alone(harness: Harness) -> None:
    harness.point(1, 1)
    harness.point(2, 1, canary=Share(3, 0.25))
    assert harness.slots.applied("delays") == Applied(2, 1)
    assert REGISTRY.get_sample_value("relevo_serving_canary_missing", {"model": "delays"}) == 1
    harness.point(3, 1, canary=Share(4, 0.25))
    assert harness.slots.applied("delays") == Applied(3, 1, Share(4, 0.25))
    assert REGISTRY.get_sample_value("relevo_serving_canary_missing", {"model": "delays"}) == 0


def test_what_was_saved_before_there_were_canaries_is_read(harness: Harness) -> None:
    document = to_document(Catalogue({"delays": replace(harness.pipeline, pointer=Pointer(3, 2, 1))}))
    for beside in ("canary", "shadow"):
        del document["pipelines"][0]["pointer"][beside]
    assert from_document(document).pipelines["delays"].pointer == Pointer(3, 2, 1)


def test_the_catalogue_survives_a_restart(harness: Harness, tmp_path: Path) -> None:
    catalogue = Catalogue(
        {"delays": replace(harness.pipeline, pointer=Pointer(3, 2, 1, Share(4, 0.25), Share(1, 1.0)))}
    )
    read_at = datetime(2013, 6, 1, tzinfo=UTC)
    state_file.save(tmp_path, catalogue, read_at)
    assert state_file.load(tmp_path) == (catalogue, read_at)
    assert from_document(to_document(catalogue)) == catalogue


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 99}', b'{"format": 1, "pipelines": 3}', b"[]"])
def test_a_state_file_that_cannot_be_used_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / state_file.NAME).write_bytes(content)
    assert state_file.load(tmp_path) is None
