"""Where a cycle goes next: every state with everything that its rows can say."""

from dataclasses import replace

import pytest

from services.trainer.cycle_steps import (
    End,
    Facts,
    RequestDataset,
    RequestValidation,
    StartRun,
    Step,
    Wait,
    next_step,
)
from shared.registry.states import (
    CycleState,
    DatasetState,
    Decision,
    ReleaseState,
    RunState,
    ValidationState,
    check_move,
    is_terminal,
)

DATASET, TRAINING = Facts(CycleState.DATASET), Facts(CycleState.TRAINING)
VALIDATING, HELD = Facts(CycleState.VALIDATING), Facts(CycleState.HELD)
PASSED, UNCLEAR = ValidationState.PASSED, ValidationState.INCONCLUSIVE

SCENARIOS: list[tuple[str, Facts, Step]] = [
    ("nothing yet", Facts(CycleState.QUEUED), RequestDataset()),
    ("the dataset waits", replace(DATASET, dataset=DatasetState.QUEUED), Wait()),
    ("the dataset is being built", replace(DATASET, dataset=DatasetState.BUILDING), Wait()),
    ("the dataset's row is out of sight", DATASET, Wait()),
    ("the dataset is ready", replace(DATASET, dataset=DatasetState.READY), StartRun()),
    (
        "the dataset failed",
        replace(DATASET, dataset=DatasetState.FAILED, dataset_reason="No label is mature."),
        End(CycleState.FAILED, "The dataset could not be built: No label is mature."),
    ),
    (
        "the dataset was erased",
        replace(DATASET, dataset=DatasetState.ERASED),
        End(CycleState.FAILED, "The dataset could not be built: erased"),
    ),
    ("the run waits", replace(TRAINING, run=RunState.QUEUED), Wait()),
    ("the run trains", replace(TRAINING, run=RunState.RUNNING), Wait()),
    ("the run succeeded", replace(TRAINING, run=RunState.SUCCEEDED), RequestValidation()),
    (
        "the run failed",
        replace(TRAINING, run=RunState.FAILED, run_reason="The loss became NaN."),
        End(CycleState.FAILED, "The training run failed: The loss became NaN."),
    ),
    (
        "the run failed silently",
        replace(TRAINING, run=RunState.FAILED),
        End(CycleState.FAILED, "The training run failed: no reason was recorded"),
    ),
    (
        "the run was cancelled",
        replace(TRAINING, run=RunState.CANCELLED, run_reason="Cancelled on request."),
        End(CycleState.CANCELLED, "Cancelled on request."),
    ),
    ("the verdict waits", replace(VALIDATING, validation=ValidationState.QUEUED), Wait()),
    ("the verdict is being found", replace(VALIDATING, validation=ValidationState.RUNNING), Wait()),
    (
        "passed, serving has not confirmed",
        replace(VALIDATING, validation=PASSED, decision=Decision.PROMOTE, release=ReleaseState.PENDING),
        Wait(),
    ),
    (
        "passed, judged again because another model serves",
        replace(VALIDATING, validation=ValidationState.QUEUED, release=ReleaseState.CONFLICT),
        Wait(),
    ),
    (
        "passed and released",
        replace(
            VALIDATING,
            validation=PASSED,
            decision=Decision.PROMOTE,
            release=ReleaseState.DONE,
            sentence="Not worse.",
        ),
        End(CycleState.RELEASED, "Not worse."),
    ),
    (
        "inconclusive, and the spec promotes",
        replace(VALIDATING, validation=UNCLEAR, decision=Decision.PROMOTE, release=ReleaseState.DONE),
        End(CycleState.RELEASED, None),
    ),
    (
        "inconclusive, and the spec holds",
        replace(VALIDATING, validation=UNCLEAR, decision=Decision.HOLD, sentence="900 more rows would settle it."),
        End(CycleState.HELD, "900 more rows would settle it."),
    ),
    (
        "serving refused, so that it is held",
        replace(
            VALIDATING,
            validation=PASSED,
            decision=Decision.HOLD,
            sentence="Not worse.",
            validation_reason="Serving refused version 3.",
        ),
        End(CycleState.HELD, "Serving refused version 3."),
    ),
    (
        "significantly worse",
        replace(VALIDATING, validation=ValidationState.REJECTED, decision=Decision.REJECT, sentence="Worse by 0.02."),
        End(CycleState.REJECTED, "Worse by 0.02."),
    ),
    (
        "no verdict could be reached",
        replace(VALIDATING, validation=ValidationState.FAILED, validation_reason="The model has no output."),
        End(CycleState.FAILED, "The candidate could not be judged: The model has no output."),
    ),
    ("held, nobody has decided", replace(HELD, validation=UNCLEAR, decision=Decision.HOLD), Wait()),
    (
        "held and approved, being released",
        replace(HELD, validation=UNCLEAR, decision=Decision.PROMOTE, release=ReleaseState.PENDING),
        Wait(),
    ),
    (
        "held, approved and released",
        replace(HELD, validation=UNCLEAR, decision=Decision.PROMOTE, release=ReleaseState.DONE, sentence="Unclear."),
        End(CycleState.RELEASED, "Unclear."),
    ),
    (
        "held and rejected",
        replace(HELD, validation=UNCLEAR, decision=Decision.REJECT, sentence="Unclear."),
        End(CycleState.REJECTED, "Unclear."),
    ),
    *(
        (f"{state} is the end", Facts(state, run=RunState.SUCCEEDED, decision=Decision.PROMOTE), Wait())
        for state in CycleState
        if is_terminal(state)
    ),
]


@pytest.mark.parametrize(("facts", "step"), [case[1:] for case in SCENARIOS], ids=[case[0] for case in SCENARIOS])
def test_next_step(facts: Facts, step: Step) -> None:
    assert next_step(facts) == step


def test_the_table_covers_every_state_of_every_row() -> None:
    facts = [case[1] for case in SCENARIOS]
    assert {fact.state for fact in facts} == set(CycleState)
    assert {fact.dataset for fact in facts} >= set(DatasetState)
    assert {fact.run for fact in facts} >= set(RunState)
    assert {fact.validation for fact in facts} >= set(ValidationState)
    assert {fact.decision for fact in facts} >= set(Decision)
    assert {fact.release for fact in facts} >= set(ReleaseState)


def test_every_end_is_a_legal_move() -> None:
    for _, facts, step in SCENARIOS:
        if isinstance(step, End):
            check_move(facts.state, step.state)
