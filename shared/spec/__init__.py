"""The pipeline file: what to predict and how, as validated models (`PipelineSpec`), and how it is read and compared."""

from shared.spec.features import (
    CategoryFeature,
    CrossFeature,
    Feature,
    NumberFeature,
    TimestampFeature,
    VectorFeature,
)
from shared.spec.offline import KeysSeen, OfflineSource, OfflineSpec
from shared.spec.pipeline import GateSpec, NetworkSpec, PipelineSpec, Task, TrainingSpec
from shared.spec.read import changes, load_yaml, parse, spec_digest

__all__ = [
    "CategoryFeature",
    "CrossFeature",
    "Feature",
    "GateSpec",
    "KeysSeen",
    "NetworkSpec",
    "NumberFeature",
    "OfflineSource",
    "OfflineSpec",
    "PipelineSpec",
    "Task",
    "TimestampFeature",
    "TrainingSpec",
    "VectorFeature",
    "changes",
    "load_yaml",
    "parse",
    "spec_digest",
]
