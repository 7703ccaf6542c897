"""Every state machine of the registry: one sentence a member, one table of legal moves, nothing else."""

from enum import StrEnum

from shared.errors import IllegalMove


class CycleState(StrEnum):
    """One pass through the loop."""

    QUEUED = "queued"  #: asked for, nothing started
    DATASET = "dataset"  #: waiting for its dataset to be built
    TRAINING = "training"  #: waiting for its run to end
    VALIDATING = "validating"  #: waiting for the verdict, and for the release when it passed
    RELEASED = "released"  #: its model is in production
    HELD = "held"  #: its model waits for a person's approval
    REJECTED = "rejected"  #: its model is significantly worse, or failed the sanity checks
    FAILED = "failed"  #: a step failed for good; `reason` says which and why
    CANCELLED = "cancelled"  #: stopped on request


class DatasetState(StrEnum):
    """One immutable version of train and test data."""

    QUEUED = "queued"  #: asked for, no worker yet
    BUILDING = "building"  #: a worker holds the lease
    READY = "ready"  #: files and manifest are stored; never changes again
    FAILED = "failed"  #: cannot be built; `reason` says why
    ERASED = "erased"  #: its files were removed; the row keeps the lineage


class RunState(StrEnum):
    """One training run."""

    QUEUED = "queued"  #: asked for, no worker yet
    RUNNING = "running"  #: a worker holds the lease
    SUCCEEDED = "succeeded"  #: exactly one model version came of it
    FAILED = "failed"  #: ended without a version; `reason` says why
    CANCELLED = "cancelled"  #: stopped on request


class ValidationState(StrEnum):
    """One comparison of a candidate with the model in production."""

    QUEUED = "queued"  #: asked for, no worker yet
    RUNNING = "running"  #: a worker holds the lease
    PASSED = "passed"  #: not worse than the baseline, or a sane first model
    REJECTED = "rejected"  #: significantly worse, or not sane
    INCONCLUSIVE = "inconclusive"  #: the rows do not settle it; the spec decides
    FAILED = "failed"  #: no verdict could be reached; counts as not passed


class PrecomputeState(StrEnum):
    """One generation of offline predictions."""

    QUEUED = "queued"  #: asked for, no worker yet
    RUNNING = "running"  #: a worker holds the lease; one of a pipeline at a time
    READY = "ready"  #: its files are stored and checked; the newest of these answers
    FAILED = "failed"  #: no generation came of it; `reason` says why
    RETIRED = "retired"  #: newer ones took its place and its files were removed; the row keeps the lineage


class VersionState(StrEnum):
    """One trained model."""

    CANDIDATE = "candidate"  #: trained and checked, not judged
    VALIDATED = "validated"  #: may be promoted
    HELD = "held"  #: waits for a person's approval
    REJECTED = "rejected"  #: may be promoted only with a named override
    RETIRED = "retired"  #: no longer kept for serving


class Decision(StrEnum):
    """What follows from a verdict and the spec's policy."""

    PROMOTE = "promote"  #: release it
    HOLD = "hold"  #: wait for approval
    REJECT = "reject"  #: do not release


class ReleaseState(StrEnum):
    """How far the release of a promoted candidate has come."""

    PENDING = "pending"  #: serving has not confirmed yet
    DONE = "done"  #: serving took it; `released_generation` says as which
    CONFLICT = "conflict"  #: the model in production changed meanwhile; must be judged again


class DeploymentAction(StrEnum):
    """What a change of the deployment pointer does."""

    PROMOTE = "promote"  #: another version is live
    ROLLBACK = "rollback"  #: the version that was live before is live again; its canary ends
    CANARY = "canary"  #: a version answers a share of the requests, another share, or none any more
    SHADOW = "shadow"  #: a version scores a share of the requests for comparison, another share, or none any more


MOVES: dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]] = {
    CycleState: {
        CycleState.QUEUED: frozenset({CycleState.DATASET, CycleState.FAILED, CycleState.CANCELLED}),
        CycleState.DATASET: frozenset({CycleState.TRAINING, CycleState.FAILED, CycleState.CANCELLED}),
        CycleState.TRAINING: frozenset({CycleState.VALIDATING, CycleState.FAILED, CycleState.CANCELLED}),
        CycleState.VALIDATING: frozenset(
            {CycleState.RELEASED, CycleState.HELD, CycleState.REJECTED, CycleState.FAILED}
        ),
        CycleState.HELD: frozenset({CycleState.RELEASED, CycleState.REJECTED, CycleState.FAILED}),
    },
    DatasetState: {
        DatasetState.QUEUED: frozenset({DatasetState.BUILDING, DatasetState.FAILED}),
        DatasetState.BUILDING: frozenset({DatasetState.READY, DatasetState.FAILED, DatasetState.QUEUED}),
        DatasetState.READY: frozenset({DatasetState.ERASED}),
    },
    RunState: {
        RunState.QUEUED: frozenset({RunState.RUNNING, RunState.FAILED, RunState.CANCELLED}),
        RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.QUEUED}),
    },
    ValidationState: {
        ValidationState.QUEUED: frozenset({ValidationState.RUNNING, ValidationState.FAILED}),
        ValidationState.RUNNING: frozenset(
            {
                ValidationState.PASSED,
                ValidationState.REJECTED,
                ValidationState.INCONCLUSIVE,
                ValidationState.FAILED,
                ValidationState.QUEUED,
            }
        ),
        # A release that found another model in production is judged again from the start.
        ValidationState.PASSED: frozenset({ValidationState.QUEUED}),
        ValidationState.INCONCLUSIVE: frozenset({ValidationState.QUEUED}),
    },
    PrecomputeState: {
        PrecomputeState.QUEUED: frozenset({PrecomputeState.RUNNING, PrecomputeState.FAILED}),
        PrecomputeState.RUNNING: frozenset({PrecomputeState.READY, PrecomputeState.FAILED, PrecomputeState.QUEUED}),
        PrecomputeState.READY: frozenset({PrecomputeState.RETIRED}),
    },
    VersionState: {
        VersionState.CANDIDATE: frozenset({VersionState.VALIDATED, VersionState.HELD, VersionState.REJECTED}),
        VersionState.HELD: frozenset({VersionState.VALIDATED, VersionState.REJECTED}),
        VersionState.VALIDATED: frozenset(
            {VersionState.HELD, VersionState.REJECTED, VersionState.CANDIDATE, VersionState.RETIRED}
        ),
        VersionState.REJECTED: frozenset({VersionState.CANDIDATE, VersionState.RETIRED}),
        VersionState.RETIRED: frozenset({VersionState.VALIDATED}),
    },
}


def check_move(old: StrEnum, new: StrEnum) -> None:
    """Allow a move that the table has.

    Raises:
        IllegalMove: the table does not have it.
    """
    if new not in MOVES[type(old)].get(old, frozenset()):
        raise IllegalMove(f"{type(old).__name__} cannot go from {old} to {new}.")


def is_terminal(state: StrEnum) -> bool:
    """Whether no move leads on from here (a HELD cycle is not terminal: a person may move it)."""
    return not MOVES[type(state)].get(state)
