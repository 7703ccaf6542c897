"""What the protocol says of models, of any state that the registry and a replica can be in."""

import uuid
from datetime import UTC, datetime

import pytest

from services.serving.errors import NotLoadable
from services.serving.models.catalogue import Pipeline, Pointer, Version
from services.serving.models.policy import Applied, SlotState
from services.serving.models.slot import SlotReport
from services.serving.oip import models
from shared.errors import Conflict, NotFound, Unavailable
from tests.unit.serving.tiny_model import SIGNATURE
from tests.unit.serving.vector_model import vector_signature

AT = datetime(2013, 6, 1, tzinfo=UTC)


def version(number: int, signature: dict[str, object] = SIGNATURE) -> Version:
    return Version(uuid.UUID(int=number), number, "validated", "d", signature, 1, AT, 0.25)


def pipeline(*versions: Version, live: int | None = None) -> Pipeline:
    pointer = None if live is None else Pointer(1, live)
    return Pipeline(uuid.UUID(int=0), "delays", 1, versions={one.number: one for one in versions}, pointer=pointer)


def slot(number: int, state: SlotState, error: str | None = None) -> SlotReport:
    return SlotReport(
        number, state, in_flight=0, live=False, canary=False, shadow=False, pinned=False, load_s=None, error=error
    )


def test_a_vector_has_its_length_and_a_signature_that_nobody_knows_is_no_answer() -> None:
    known = pipeline(version(1, vector_signature(7)), version(12), version(3, {"inputs": "?"}))
    described = models.metadata(known, 1)
    assert described["inputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 7]}]
    assert described["versions"] == ["1", "3", "12"]
    with pytest.raises(NotLoadable):
        models.metadata(known, 3)
    with pytest.raises(NotFound):
        models.metadata(known, 4)


def test_the_index_lists_every_version_with_its_state() -> None:
    known = pipeline(*map(version, (1, 2, 3, 4, 5)), live=2)
    slots = [
        slot(1, SlotState.DRAINING),
        slot(2, SlotState.READY),
        slot(3, SlotState.FAILED, "Version 3 cannot serve."),
        slot(4, SlotState.LOADING),
    ]
    every = models.index({"delays": (known, slots)}, ready=False)
    assert [(entry["version"], entry["state"]) for entry in every] == [
        ("1", "UNLOADING"), ("2", "READY"), ("3", "UNAVAILABLE"), ("4", "LOADING"), ("5", "UNAVAILABLE"),
    ]  # fmt: skip
    assert (every[1]["reason"], every[2]["reason"]) == ("", "Version 3 cannot serve.")
    assert "loads it" in every[4]["reason"]
    assert models.index({"delays": (known, slots)}, ready=True) == [every[1]]
    (none,) = models.index({"delays": (pipeline(), [])}, ready=False)
    assert (none["state"], "version" in none) == ("UNAVAILABLE", False)


def test_ready_is_what_can_answer_at_once() -> None:
    known, applied = pipeline(version(1), version(2), live=1), Applied(1, 1)
    models.require_ready(known, None, applied, [])
    models.require_ready(known, 2, applied, [slot(2, SlotState.DRAINING)])
    for state in (SlotState.LOADING, SlotState.FAILED):
        with pytest.raises(Unavailable, match="not loaded"):
            models.require_ready(known, 2, applied, [slot(2, state)])
    with pytest.raises(Unavailable, match="still being loaded"):
        models.require_ready(known, None, None, [])
    for wrong, number in ((known, 9), (pipeline(version(1)), None)):
        with pytest.raises(NotFound):
            models.require_ready(wrong, number, None, [])


def test_load_succeeds_when_it_is_so_and_says_what_to_do_when_not() -> None:
    models.require_loaded(pipeline(version(1), live=1), Applied(1, 1))
    with pytest.raises(Conflict, match="POST /admin/models/delays/promote"):
        models.require_loaded(pipeline(version(1)), None)
    with pytest.raises(Conflict, match="GET /admin/models/delays"):
        models.require_loaded(pipeline(version(1), live=1), None)
    assert models.live_of(pipeline(version(1), version(2), live=2), Applied(1, 1)) == 1, "what answers here, now"


@pytest.mark.parametrize("name", ["", "0", "01", "-1", "1.0", "latest", "1" * 10, "²", "\uff11"])
def test_what_is_no_number_is_no_version(name: str) -> None:
    with pytest.raises(NotFound, match="numbers from 1"):
        models.version_of(name)
    assert models.version_of("12") == 12
