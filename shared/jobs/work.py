"""The kinds of leased work: which table, which states, which nudge. Leases and the sweeper know work only through this."""

from dataclasses import dataclass
from enum import StrEnum

from shared.contracts.tasks import TaskName
from shared.registry.states import DatasetState, PrecomputeState, RunState, ValidationState
from shared.registry.tables import Dataset, Precompute, Run, Validation


@dataclass(frozen=True)
class WorkKind:
    """One table of leased work."""

    name: str
    table: type[Dataset] | type[Run] | type[Validation] | type[Precompute]
    queued: StrEnum
    running: StrEnum
    failed: StrEnum
    task: TaskName


DATASET = WorkKind(
    "dataset", Dataset, DatasetState.QUEUED, DatasetState.BUILDING, DatasetState.FAILED, TaskName.BUILD_DATASET
)
RUN = WorkKind("run", Run, RunState.QUEUED, RunState.RUNNING, RunState.FAILED, TaskName.TRAIN)
VALIDATION = WorkKind(
    "validation", Validation, ValidationState.QUEUED, ValidationState.RUNNING, ValidationState.FAILED, TaskName.VALIDATE
)
PRECOMPUTE = WorkKind(
    "precompute",
    Precompute,
    PrecomputeState.QUEUED,
    PrecomputeState.RUNNING,
    PrecomputeState.FAILED,
    TaskName.PRECOMPUTE,
)
ALL_WORK = (DATASET, RUN, VALIDATION, PRECOMPUTE)
