"""Pure: where a cycle stands, judged from rows alone, and the one step that follows."""

from dataclasses import dataclass

from shared.registry.states import CycleState, DatasetState, Decision, ReleaseState, RunState, ValidationState


@dataclass(frozen=True)
class Facts:
    """What the rows say about one cycle; None: there is no such row yet."""

    state: CycleState
    dataset: DatasetState | None = None
    dataset_reason: str | None = None
    run: RunState | None = None
    run_reason: str | None = None
    validation: ValidationState | None = None
    decision: Decision | None = None
    release: ReleaseState | None = None
    sentence: str | None = None
    validation_reason: str | None = None


@dataclass(frozen=True)
class RequestDataset:
    """Ask the data service to build one."""


@dataclass(frozen=True)
class StartRun:
    """Queue a training run on the dataset."""


@dataclass(frozen=True)
class RequestValidation:
    """Ask the validator to judge the run's version."""


@dataclass(frozen=True)
class Wait:
    """Someone else is at work; a nudge comes when they are done."""


@dataclass(frozen=True)
class End:
    """Move to `state` and say why."""

    state: CycleState
    reason: str | None


Step = RequestDataset | StartRun | RequestValidation | Wait | End


def next_step(facts: Facts) -> Step:
    """The step that follows; the same facts always give the same step, so looking twice does no harm."""
    match facts.state:
        case CycleState.QUEUED:
            return RequestDataset()
        case CycleState.DATASET:
            return _after_dataset(facts)
        case CycleState.TRAINING:
            return _after_run(facts)
        case CycleState.VALIDATING | CycleState.HELD:
            return _after_validation(facts)
        case _:
            return Wait()


def _after_dataset(facts: Facts) -> Step:
    match facts.dataset:
        case DatasetState.READY:
            return StartRun()
        case DatasetState.FAILED | DatasetState.ERASED:
            return End(CycleState.FAILED, f"The dataset could not be built: {facts.dataset_reason or facts.dataset}")
        case _:
            return Wait()


def _after_run(facts: Facts) -> Step:
    match facts.run:
        case RunState.SUCCEEDED:
            return RequestValidation()
        case RunState.FAILED:
            return End(CycleState.FAILED, f"The training run failed: {facts.run_reason or 'no reason was recorded'}")
        case RunState.CANCELLED:
            return End(CycleState.CANCELLED, facts.run_reason or "The training run was cancelled.")
        case _:
            return Wait()


def _after_validation(facts: Facts) -> Step:
    if facts.validation is ValidationState.FAILED:
        why = facts.validation_reason or facts.sentence or "no reason was recorded"
        return End(CycleState.FAILED, f"The candidate could not be judged: {why}")
    if facts.decision is Decision.REJECT:
        return End(CycleState.REJECTED, facts.validation_reason or facts.sentence)
    if facts.decision is Decision.HOLD:
        return (
            Wait()
            if facts.state is CycleState.HELD
            else End(CycleState.HELD, facts.validation_reason or facts.sentence)
        )
    if facts.decision is Decision.PROMOTE and facts.release is ReleaseState.DONE:
        return End(CycleState.RELEASED, facts.sentence)
    return Wait()
