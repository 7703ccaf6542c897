"""Every swap as a scenario: what is wanted, what answers, what is held, and the steps that follow."""

import pytest

from services.serving.models.catalogue import Share
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

CANARY, SHADOW = Share(5, 0.25), Share(6, 0.5)


def slot(version: int, state: SlotState = READY, **fields: object) -> SlotView:
    return SlotView(version, state, **fields)  # type: ignore[arg-type]


SCENARIOS: dict[str, tuple[Wanted | None, Applied | None, list[SlotView], list[Action]]] = {
    "nothing is deployed": (None, None, [], []),
    "the first version is loaded": (Wanted(1, 1), None, [], [Load(1)]),
    "a loading version is waited for": (Wanted(1, 1), None, [slot(1, LOADING)], []),
    "a loaded version is switched to": (Wanted(1, 1), None, [slot(1)], [Activate(Applied(1, 1))]),
    "in place: nothing to do": (Wanted(1, 1), Applied(1, 1), [slot(1)], []),
    "a new version is loaded while the old one answers": (Wanted(2, 2, 1), Applied(1, 1), [slot(1)], [Load(2)]),
    "the old one stays while the new one loads": (Wanted(2, 2, 1), Applied(1, 1), [slot(1), slot(2, LOADING)], []),
    "the switch comes before anything is retired": (
        Wanted(3, 3, 2), Applied(2, 2), [slot(1), slot(2), slot(3)], [Activate(Applied(3, 3))],
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
    "the same version under a new generation": (Wanted(2, 1, 1), Applied(1, 1), [slot(1)], [Activate(Applied(2, 1))]),
    "rolled back to a version that is still loaded": (
        Wanted(3, 1, 2), Applied(2, 2), [slot(1), slot(2)], [Activate(Applied(3, 1))],
    ),
    "a draining version that is wanted again is switched to": (
        Wanted(4, 1, 3), Applied(3, 3), [slot(1, DRAINING, in_flight=1), slot(3)], [Activate(Applied(4, 1))],
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
    "a canary is loaded while the live version answers alone": (
        Wanted(2, 1, None, CANARY), Applied(1, 1), [slot(1)], [Load(5)],
    ),
    "a canary that is being loaded is waited for": (Wanted(2, 1, None, CANARY), Applied(1, 1), [slot(1), slot(5, LOADING)], []),
    "the canary begins once it is loaded": (
        Wanted(2, 1, None, CANARY), Applied(1, 1), [slot(1), slot(5)], [Activate(Applied(2, 1, CANARY))],
    ),
    "another weight is another switch, all at once": (
        Wanted(3, 1, None, Share(5, 0.5)), Applied(2, 1, CANARY), [slot(1), slot(5)], [Activate(Applied(3, 1, Share(5, 0.5)))],
    ),
    "a canary that cannot be loaded holds up nothing": (
        Wanted(2, 1, None, CANARY), Applied(1, 1), [slot(1), slot(5, FAILED, retry_at_s=200)], [Activate(Applied(2, 1))],
    ),
    "a failed canary is tried again when due, and the live version goes on": (
        Wanted(2, 1, None, CANARY), Applied(2, 1), [slot(1), slot(5, FAILED, retry_at_s=100)], [Load(5)],
    ),
    "a canary that could be loaded at last joins": (
        Wanted(2, 1, None, CANARY), Applied(2, 1), [slot(1), slot(5)], [Activate(Applied(2, 1, CANARY))],
    ),
    "at a start nobody waits for the canary": (
        Wanted(2, 1, None, CANARY), None, [slot(1), slot(5, LOADING)], [Activate(Applied(2, 1))],
    ),
    "the canary that is live now takes all at once": (
        Wanted(4, 5, 1), Applied(3, 1, CANARY), [slot(1), slot(5)], [Activate(Applied(4, 5))],
    ),
    "an ended canary drains": (Wanted(3, 1, 2), Applied(3, 1), [slot(1), slot(2), slot(5, in_flight=1)], [Drain(5)]),
    "live, the version before, canary and shadow stay": (
        Wanted(3, 1, 2, CANARY, SHADOW), Applied(3, 1, CANARY, SHADOW), [slot(1), slot(2), slot(5), slot(6)], [],
    ),
    "one canary follows another without a gap": (
        Wanted(3, 1, None, Share(4, 0.25)), Applied(2, 1, CANARY), [slot(1), slot(5), slot(4, LOADING)], [],
    ),
    "a shadow is not waited for": (
        Wanted(2, 1, None, None, SHADOW), Applied(1, 1), [slot(1), slot(6, LOADING)], [Activate(Applied(2, 1))],
    ),
    "a shadow joins once it is loaded": (
        Wanted(2, 1, None, None, SHADOW), Applied(2, 1), [slot(1), slot(6)], [Activate(Applied(2, 1, None, SHADOW))],
    ),
    "the version before is loaded when all else is in place": (
        Wanted(2, 1, 3, CANARY), Applied(1, 1), [slot(1), slot(5, LOADING)], [],
    ),
    "pinned versions stay": (Wanted(3, 3, 2), Applied(3, 3), [slot(2), slot(3), slot(9)], []),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_steps_that_follow(name: str) -> None:
    wanted, applied, slots, expected = SCENARIOS[name]
    assert next_actions(wanted, applied, slots, pinned={9}, now_s=100) == expected


def test_what_answers_is_never_drained_or_unloaded() -> None:
    for wanted, applied, slots, _ in SCENARIOS.values():
        for action in next_actions(wanted, applied, slots, pinned=(), now_s=100):
            assert not (
                isinstance(action, Drain | Unload) and applied is not None and action.version in applied.versions
            )
