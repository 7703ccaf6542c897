"""`PipelineSpec`: the whole pipeline file. A field that is not built yet is refused by name, never ignored."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.spec.cron import parse_cron
from shared.spec.features import CategoryFeature, CrossFeature, Feature, TimestampFeature
from shared.spec.offline import OfflineSpec
from shared.spec.postprocessing import Stages, problems
from shared.spec.types import Duration, FieldName, Name, Text

Task = Literal["binary", "regression"]
RESERVED_FIELDS = frozenset({"available_at", "label_time", "prediction_id", "score"})
DATASET_COLUMNS = ("key", "time", "label")
"""What every dataset has beside the features."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LabelSpec(_Part):
    """The ground truth: its name, and when its absence may be believed."""

    name: FieldName
    mature_after: Duration = timedelta(0)
    """An example counts only when its event is at least this old at `as_of`."""
    if_missing: Literal["drop", "negative"] = "drop"
    """`negative` (binary only): a mature example without a label is a 0, as with implicit feedback."""


class DatasetSpec(_Part):
    """How examples are windowed and split, all by event time."""

    window: Duration = timedelta(days=180)
    """Length of the whole window, train and test together, ending where labels are mature."""
    test: Duration = timedelta(days=14)
    """The newest part of the window, never trained on."""
    gap: Duration = timedelta(0)
    """Left out between train and test, so that no train label was still unknown when the test began."""

    @model_validator(mode="after")
    def _fits(self) -> "DatasetSpec":
        if self.test <= timedelta(0):
            raise ValueError("test must be longer than zero")
        if self.window <= self.test + self.gap:
            raise ValueError("window must be longer than test and gap together")
        return self


class NetworkSpec(_Part):
    """The network that is fed by the preprocessing graph."""

    kind: Literal["linear", "mlp", "dcn"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=8192)]] = Field(default=[128, 64], max_length=8)
    cross_layers: int = Field(default=2, ge=1, le=8)
    """dcn only: number of cross layers beside the deep tower."""
    embedding: int = Field(default=8, ge=1, le=256)
    """Width of the embedding of each id (category, calendar part, cross); linear has a single weight for each."""
    dropout: float = Field(default=0.2, ge=0, lt=1)


class TrainingSpec(_Part):
    """Optimisation settings (AdamW)."""

    epochs: int = Field(default=6, ge=1, le=1000)
    batch_size: int = Field(default=1024, ge=1, le=1_000_000)
    """Rows per step, at most; a small table is trained in smaller batches, so that an epoch has 100 steps or more."""
    learning_rate: float = Field(default=0.002, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0, le=1)
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """The newest share of the train window held out for early stopping."""
    patience: int = Field(default=3, ge=1)
    """Epochs without improvement on the held-out slice before stopping."""
    refit: bool = True
    """Once the held-out slice has told how many epochs are enough, train anew on all rows, the newest too."""
    seed: int = Field(default=7, ge=0, lt=2**31)


class GateSpec(_Part):
    """The release gate: non-inferiority against the model in production."""

    metric: Literal["log_loss", "squared_error"] | None = None
    """Per-row loss compared; by default log_loss for binary, squared_error (reported as RMSE) for regression."""
    margin: float = Field(default=0.005, gt=0)
    """Largest mean loss increase that still counts as not worse."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    inconclusive: Literal["promote", "hold"] = "promote"
    approval: Literal["auto", "manual"] = "auto"
    """`manual`: a passing candidate is held until someone approves it."""
    min_rows: int = Field(default=100, ge=10)
    """Fewer test rows than this never pass."""


class MonitoringSpec(_Part):
    """How live models are watched."""

    bias_tolerance: float = Field(default=0.05, gt=0)
    """Largest distance of the mean prediction from the training set's label mean before a day counts as biased."""


def _is_empty(value: list[object]) -> bool:
    return not value


class PipelineSpec(_Part):
    """One pipeline: what to predict and how."""

    name: Name
    description: Text = ""
    owner: Text = ""
    task: Task
    key: FieldName
    entity: FieldName | None = None
    columns: list[FieldName] = Field(default=[], max_length=200)
    time: FieldName
    features: dict[FieldName, Feature] = Field(min_length=1, max_length=1000)
    label: LabelSpec
    dataset: DatasetSpec = DatasetSpec()
    network: NetworkSpec = NetworkSpec()
    training: TrainingSpec = TrainingSpec()
    schedule: Annotated[Text, AfterValidator(parse_cron)] | None = None
    """Cron, five fields, UTC; none: cycles start only when asked for."""
    gate: GateSpec = GateSpec()
    postprocessing: Stages = Field(default=[], exclude_if=_is_empty)
    """What serving does with scores until `PUT /admin/models/{p}/postprocessing` says otherwise. Not written where there is none:
    such specs keep the digest they had before there were stages."""
    monitoring: MonitoringSpec = MonitoringSpec()
    offline: OfflineSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Predictions made ahead of their requests. Not written where there is none: those specs keep their digest."""

    @model_validator(mode="after")
    def _features_fit(self) -> "PipelineSpec":
        for name, feature in self.features.items():
            if isinstance(feature, CrossFeature):
                for part in feature.of:
                    if not isinstance(self.features.get(part), CategoryFeature):
                        raise ValueError(f"features.{name}.of: {part} is not a category feature of this pipeline")
            if name in DATASET_COLUMNS and not (name == self.time == "time"):
                raise ValueError(f"features.{name}: every dataset has a column {name} of its own; rename the feature")
        for field, name in {"key": self.key, "label.name": self.label.name}.items():
            if name in self.features:
                raise ValueError(f"{field}: {name} is also a feature")
        if self.time in self.features and not isinstance(self.features[self.time], TimestampFeature):
            raise ValueError(f"time: {self.time} is a feature that is not of type timestamp")
        return self

    @model_validator(mode="after")
    def _roles_fit(self) -> "PipelineSpec":
        if self.key == self.label.name or self.time in (self.key, self.label.name):
            raise ValueError("key, time and label.name must be three different fields")
        if self.entity in (self.time, self.label.name):
            raise ValueError(f"entity: {self.entity} is also the time or the label; name whom an example is about")
        overlap = set(self.columns) & (set(self.features) | {self.key, self.time, self.label.name})
        if overlap:
            raise ValueError(
                f"columns: {sorted(overlap)[0]} already has a role; columns are logged beside the features"
            )
        named = {self.key, self.time, self.label.name, self.entity or self.key, *self.columns, *self.features}
        if reserved := RESERVED_FIELDS & named:
            raise ValueError(f"{sorted(reserved)[0]} is a reserved name")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> "PipelineSpec":
        if self.label.if_missing == "negative" and self.task != "binary":
            raise ValueError("label.if_missing: negative needs task binary")
        expected = {"binary": "log_loss", "regression": "squared_error"}[self.task]
        if self.gate.metric not in (None, expected):
            raise ValueError(f"gate.metric: {self.gate.metric} does not fit task {self.task}; use {expected}")
        default = self.offline.default if self.offline else None
        if self.task == "binary" and default is not None and not 0 <= default <= 1:
            raise ValueError("offline.default: a binary task's score is a probability, from 0 to 1")
        return self

    @model_validator(mode="after")
    def _postprocessing_fits(self) -> "PipelineSpec":
        for place, message in problems(self.postprocessing, known=self.postprocessed_fields, task=self.task):
            raise ValueError(f"{'.'.join(map(str, ('postprocessing', *place)))}: {message}")
        return self

    @property
    def postprocessed_fields(self) -> dict[str, Feature | None]:
        """The fields that post-processing may name; None for those that are no feature."""
        inputs = self.input_features
        return {name: inputs.get(name) for name in self.instance_fields if name != "available_at"}

    @property
    def input_features(self) -> dict[str, Feature]:
        """The features that have an input of their own (all but crosses), in the spec's order."""
        return {name: f for name, f in self.features.items() if not isinstance(f, CrossFeature)}

    @property
    def instance_fields(self) -> list[str]:
        """Every field an instance or event may carry, the label aside, in a stable order."""
        extra = [f for f in (self.entity, *self.columns) if f and f not in self.features]
        return list(dict.fromkeys([self.key, self.time, *self.input_features, *extra, "available_at"]))
