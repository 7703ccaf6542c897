"""All tables, one noun a file. Importing this package registers every table with `SQLModel.metadata`."""

from shared.registry.tables.access import ApiKey, IdempotencyRecord
from shared.registry.tables.cycle import Cycle, Schedule, ScheduleSlot
from shared.registry.tables.dataset import Dataset
from shared.registry.tables.deployment import Deployment, DeploymentChange
from shared.registry.tables.example import (
    Event,
    Label,
    PredictionRequest,
    QuarantinedRow,
    ResolutionWatermark,
    ResolvedLabel,
)
from shared.registry.tables.monitoring import Alert, MonitoringDay, MonitoringWatermark
from shared.registry.tables.outbox import OutboxMessage
from shared.registry.tables.pipeline import Pipeline, SpecVersion
from shared.registry.tables.postprocessing import RemovalChange, StagesChange
from shared.registry.tables.precompute import Precompute
from shared.registry.tables.run import Run, RunProgress
from shared.registry.tables.shadow import ShadowComparison
from shared.registry.tables.validation import Validation
from shared.registry.tables.version import ModelVersion

__all__ = [
    "Alert",
    "ApiKey",
    "Cycle",
    "Dataset",
    "Deployment",
    "DeploymentChange",
    "Event",
    "IdempotencyRecord",
    "Label",
    "ModelVersion",
    "MonitoringDay",
    "MonitoringWatermark",
    "OutboxMessage",
    "Pipeline",
    "Precompute",
    "PredictionRequest",
    "QuarantinedRow",
    "RemovalChange",
    "ResolutionWatermark",
    "ResolvedLabel",
    "Run",
    "RunProgress",
    "Schedule",
    "ScheduleSlot",
    "ShadowComparison",
    "SpecVersion",
    "StagesChange",
    "Validation",
]
