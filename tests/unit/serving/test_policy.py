"""Every swap as a scenario: what is wanted, what answers, what is held, and the steps that follow."""

import pytest

from services.serving.models.policy import (
    Action,
    Activate,
    Applied,
    Drain,
    Load,
    SlotState,
    SlotView,
    Unload,
    Wanted,
    next_actions,
)

LOADING, READY, DRAINING, FAILED = SlotState.LOADING, SlotState.READY, SlotState.DRAINING, SlotState.FAILED


def slot(version: int, state: SlotState = READY, **fields: object) -> SlotView:
    return SlotView(version, state, **fields)  # type: ignore[arg-type]


SCENARIOS: dict[str, tuple[Wanted | None, Applied | None, list[SlotView], list[Action]]] = {
    "nothing is deployed": (None, None, [], []),
    "the first version is loaded": (Wanted(1, 1), None, [], [Load(1)]),
    "a loading version is waited for": (Wanted(1, 1), None, [slot(1, LOADING)], []),
    "a loaded version is switched to": (Wanted(1, 1), None, [slot(1)], [Activate(1, 1)]),
    "in place: nothing to do": (Wanted(1, 1), Applied(1, 1), [slot(1)], []),
    "a new version is loaded while the old one answers": (Wanted(2, 2, 1), Applied(1, 1), [slot(1)], [Load(2)]),
    "the old one stays while the new one loads": (Wanted(2, 2, 1), Applied(1, 1), [slot(1), slot(2, LOADING)], []),
    "the switch comes before anything is retired": (
        Wanted(3, 3, 2), Applied(2, 2), [slot(1), slot(2), slot(3)], [Activate(3, 3)],
    ),
    "after the switch the one before stays, older ones drain": (
        Wanted(3, 3, 2), Applied(3, 3), [slot(1, in_flight=2), slot(2), slot(3)], [Drain(1)],
    ),
    "a draining version with requests is not unloaded": (
        Wanted(3, 3, 2), Applied(3, 3), [slot(1, DRAINING, in_flight=1), slot(2), slot(3)], [],
    ),
    "a drained version is unloaded": (Wanted(3, 3, 2), Applied(3, 3), [slot(1, DRAINING), slot(2), slot(3)], [Unload(1)]),
    "a failed load keeps the old version, to be tried later": (
        Wanted(2, 2, 1), Applied(1, 1), [slot(1), slot(2, FAILED, retry_at_s=200)], [],
    ),
    "a failed load is tried again when due": (
        Wanted(2, 2, 1), Applied(1, 1), [slot(1), slot(2, FAILED, retry_at_s=100)], [Load(2)],
    ),
    "an older generation is never applied": (Wanted(4, 1), Applied(5, 2), [slot(1), slot(2)], []),
    "an older generation loads nothing either": (Wanted(4, 1), Applied(5, 2), [slot(2)], []),
    "the same version under a new generation": (Wanted(2, 1, 1), Applied(1, 1), [slot(1)], [Activate(1, 2)]),
    "rolled back to a version that is still loaded": (Wanted(3, 1, 2), Applied(2, 2), [slot(1), slot(2)], [Activate(1, 3)]),
    "a draining version that is wanted again is switched to": (
        Wanted(4, 1, 3), Applied(3, 3), [slot(1, DRAINING, in_flight=1), slot(3)], [Activate(1, 4)],
    ),
    "the version before is loaded once the live one is in place": (Wanted(2, 2, 1), Applied(2, 2), [slot(2)], [Load(1)]),
    "the version before that fails is not tried without end": (
        Wanted(2, 2, 1), Applied(2, 2), [slot(2), slot(1, FAILED, retry_at_s=200)], [],
    ),
    "two promotions at once: only the last is loaded, a started load is let finish": (
        Wanted(3, 3, 2), Applied(1, 1), [slot(1), slot(2, LOADING)], [Load(3)],
    ),
    "a failure that nobody wants any more is forgotten": (
        Wanted(3, 3, 1), Applied(3, 3), [slot(1), slot(2, FAILED, retry_at_s=500), slot(3)], [Unload(2)],
    ),
    "the registry forgot the pipeline: what answers goes on": (None, Applied(3, 3), [slot(3)], []),
    "pinned versions stay": (Wanted(3, 3, 2), Applied(3, 3), [slot(2), slot(3), slot(9)], []),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_steps_that_follow(name: str) -> None:
    wanted, applied, slots, expected = SCENARIOS[name]
    assert next_actions(wanted, applied, slots, pinned={9}, now_s=100) == expected


def test_what_answers_is_never_drained_or_unloaded() -> None:
    for wanted, applied, slots, _ in SCENARIOS.values():
        for action in next_actions(wanted, applied, slots, pinned=(), now_s=100):
            assert not (isinstance(action, Drain | Unload) and applied is not None and action.version == applied.live)
