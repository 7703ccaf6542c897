"""What serving's API takes and gives, as documented in OpenAPI."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.serving.models.catalogue import Share
from services.serving.models.policy import SlotState
from shared.registry.states import DeploymentAction, PrecomputeState
from shared.registry.tables import Precompute
from shared.spec import OfflineSource
from shared.spec.types import Name, Text
from shared.web.moments import Moment

LONGEST_S = 10.0 * 365 * 86_400
"""No staleness that anybody asks for is longer."""
Number = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Generation = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


# Predict


class ModelPredictRequest(_Request):
    """Rows to score with a model."""

    instances: list[dict[str, Any]] = Field(
        min_length=1,
        description=(
            "One object a row: the pipeline's key and time, its features, entity and columns by name; `available_at` in a replay. "
            "Absent or null texts and numbers are missing values. Times are ISO 8601 with an offset, or epoch microseconds."
        ),
    )
    version: Number | None = Field(
        default=None,
        description="Another version than the live one; needs the scope `predict:version`. Logged as pinned.",
    )


class PredictRequest(ModelPredictRequest):
    """Rows to score."""

    model: Name | None = Field(default=None, description="The pipeline. Not needed when exactly one is deployed.")


class Prediction(BaseModel):
    """One row's answer."""

    prediction_id: str = Field(description="Send it back with the truth, to /feedback.", min_length=54, max_length=54)
    key: str = Field(description="The instance's key.")
    score: float | None = Field(
        description=(
            "binary: the probability of a 1; regression: the predicted value. After post-processing, if there is any; "
            "null only where the row is on the removal list."
        )
    )
    raw_score: float | None = Field(
        default=None, description="The model's. Absent without post-processing; null where the row was removed."
    )
    decision: bool | None = Field(
        default=None, description="Whether the score reached the threshold. Absent without one; null where removed."
    )
    removed: bool | None = Field(default=None, description="True: on the removal list. Else absent.")


class MadeUnder(BaseModel):
    """Which post-processing an answer went through."""

    number: int | None = Field(default=None, description="The order whose stages were applied; absent: a spec's were.")
    spec_version: int | None = Field(
        default=None, description="The spec whose stages were applied; absent: an order's were."
    )
    removals: int = Field(description="Sequence of the removal list that was applied; 0: it never had an item.")


class PredictResponse(BaseModel):
    """The answers, in the order of the instances, all of one version."""

    model: str
    model_version: int
    predictions: list[Prediction]
    postprocessing: MadeUnder | None = Field(default=None, description="Absent when nothing is done to single scores.")


# Feedback


class FeedbackItem(_Request):
    """The truth about one prediction."""

    prediction_id: str | None = Field(default=None, description="As /predict returned it; this or `key`.")
    key: str | None = Field(
        default=None, min_length=1, max_length=256, description="The example's key; this or `prediction_id`."
    )
    model: Name | None = Field(default=None, description="The pipeline; needed with `key` when there are several.")
    label: float | bool = Field(description="binary: 0 or 1, or false or true; regression: any finite number.")
    time: datetime | int | None = Field(
        default=None,
        description="When the truth became known: ISO 8601 with an offset, or epoch microseconds. Default: `available_at`.",
    )
    source: Literal["explicit", "implicit"] = Field(
        default="explicit", description="Stated, or inferred from behaviour."
    )
    available_at: datetime | int | None = Field(
        default=None, description="When you knew it, in a replay; never later than the receipt, which is the default."
    )


class FeedbackVerdict(BaseModel):
    """What became of one item."""

    index: int
    status: Literal["accepted", "duplicate", "rejected"]
    reason: str | None = Field(default=None, description="Why it was rejected, and what to do.")


class FeedbackResponse(BaseModel):
    """What became of each item, in order; a rejected item never stops the others."""

    results: list[FeedbackVerdict]
    accepted: int
    duplicates: int
    rejected: int


# Admin


class Beside(BaseModel):
    """A version that stands beside the live one, with its share of the requests."""

    version: int
    share: float = Field(description="Above 0, at most 1.")


class LoadedVersion(BaseModel):
    """A version that this replica holds."""

    version: int
    state: SlotState
    live: bool
    canary: bool = Field(description="Answers a share of the keys here.")
    shadow: bool = Field(description="Kept because it is the shadow.")
    pinned: bool = Field(description="Kept because requests name it.")
    in_flight: int = Field(description="Requests it is answering now.")
    load_s: float | None = Field(description="Time it took to fetch, check, load and warm it.")
    error: str | None = Field(description="Why it could not be loaded; it is tried again.")


class ModelView(BaseModel):
    """One pipeline as this replica sees it."""

    model: str
    task: str
    live_version: int | None = Field(description="The registry's pointer, as last read; null when nothing is deployed.")
    generation: int = Field(description="The pointer's generation; 0 when nothing is deployed.")
    previous_version: int | None = Field(description="What was live before.")
    canary: Beside | None = Field(description="What answers a share of the keys in the live version's stead.")
    shadow: Beside | None = Field(description="What scores a share of the requests for comparison.")
    applied_version: int | None = Field(description="What answers on this replica.")
    applied_generation: int
    applied_canary: Beside | None = Field(
        description="The canary on this replica; null, too, while it cannot be loaded here: the live version answers then."
    )
    applied_postprocessing: MadeUnder = Field(description="What is applied on this replica.")
    registry_age_s: float | None = Field(description="Time since the registry was last read; large when it is away.")
    loaded: list[LoadedVersion]


class ModelList(BaseModel):
    """All pipelines the key may see."""

    items: list[ModelView]


class _Change(_Request):
    expected_generation: Generation | None = Field(
        default=None,
        description=(
            "Change only if the pointer is still at this generation (0: nothing deployed yet); else 409. "
            "A request that names it may be sent again: it takes effect once."
        ),
    )
    effective_at: Moment | None = Field(default=None, description="In a replay: the simulated moment of the change.")


class PromoteRequest(_Change):
    """Make a version live."""

    version: Number
    validation: UUID | None = Field(
        default=None, description="The verdict it is released on; default: its latest that promotes it."
    )
    reason: Text = ""
    override: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None,
        description="Why this version may live without a verdict that promotes it. Recorded with your key's name.",
    )


class RollbackRequest(_Change):
    """Make the version live that was before."""

    reason: Annotated[Text, Field(min_length=1)]


class CanaryRequest(_Change):
    """Have a version answer a share of the keys; `version` null or `weight` 0: none any more."""

    version: Number | None
    weight: Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Share of the keys; needed with a version. A key that the canary has keeps it while the weight grows.",
    )
    reason: Text = ""
    override: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None,
        description="Why this version may answer without a verdict that promotes it. Recorded with your key's name.",
    )

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        if self.version is not None and self.weight is None:
            raise ValueError("name the `weight` of the version: a share of the keys, from 0 to 1")
        return self


class ShadowRequest(_Change):
    """Have a version score a share of the requests for comparison; `version` null or `sample` 0: none any more."""

    version: Number | None
    sample: Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)] | None = Field(
        default=None, description="Share of the requests that the live version answers; needed with a version."
    )
    reason: Text = ""

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        if self.version is not None and self.sample is None:
            raise ValueError("name the `sample` of the version: a share of the requests, from 0 to 1")
        return self


class ReleaseResponse(BaseModel):
    """The pointer after the change."""

    model: str
    live_version: int
    generation: int
    previous_version: int | None
    canary: Beside | None
    shadow: Beside | None
    changed: bool = Field(description="False when all was so already, as after a repeated request.")
    applied: bool = Field(
        description="Whether this replica answers with it already; if not, it follows as soon as it can."
    )


class ChangeView(BaseModel):
    """One change of the pointer."""

    generation: int
    action: DeploymentAction
    version: int = Field(description="The live version after it.")
    previous_version: int | None
    canary: Beside | None = Field(description="The canary after it.")
    shadow: Beside | None = Field(description="The shadow after it.")
    actor: str = Field(description="Name of the API key.")
    reason: str
    validation: UUID | None
    override: str | None
    effective_at: datetime | None = Field(description="In a replay: the simulated moment; else null.")
    created_at: datetime


def beside(share: Share | None) -> Beside | None:
    """As the API shows it."""
    return None if share is None else Beside(version=share.version, share=share.share)


# Offline predictions


class PrecomputeRequest(OfflineSource):
    """Which rows to score."""


class PrecomputeView(BaseModel):
    """One generation of offline predictions."""

    number: int = Field(description="The generation.")
    id: UUID
    state: PrecomputeState
    source: dict[str, Any]
    trigger: Literal["request", "schedule", "release"]
    requested_by: str = Field(description="Name of the API key; `schedule`.")
    slot: datetime | None
    version: int | None = Field(description="Who scores; known once it is taken up.")
    progress: dict[str, Any] = Field(description="`step`, `rows_done` of `rows`, `seconds`.")
    rows: int | None
    size_bytes: int | None
    digest: str | None = Field(description="sha256 of the generation's manifest.")
    parity: dict[str, Any] = Field(description="`rows` that were scored again as /predict does, `largest_difference`.")
    computed_at: datetime | None = Field(description="When its rows were read.")
    reason: str | None = Field(description="Why it failed, or waits.")
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Precompute, version: int | None) -> "PrecomputeView":
        """From the row."""
        return cls(version=version, **row.model_dump(include=cls.model_fields.keys() - {"version"}))


class LookupRequest(_Request):
    """Keys to look up, with the features that are scored where there is no prediction."""

    instances: list[dict[str, Any]] = Field(
        min_length=1, description="As for /predict. One whose key is known offline needs no more than the key."
    )
    max_staleness_s: float | None = Field(
        default=None, ge=0, le=LONGEST_S, description="An older offline prediction does not answer."
    )


class LookupAnswer(BaseModel):
    """One key's prediction, and what answered."""

    key: str
    source: Literal["offline", "online", "default"]
    score: float | None = Field(description="After post-processing; null where the key is on the removal list.")
    model_version: int | None = Field(description="Null for a default.")
    generation: int | None = Field(
        description="Where it was found; online: where its features were, unless they were sent."
    )
    computed_at: datetime | None = Field(description="Offline: when the generation's rows were read; online: now.")
    staleness_s: float | None
    prediction_id: str | None = Field(description="Online: for /feedback. Offline, feedback names the key.")
    raw_score: float | None = Field(default=None, description="The model's; there where post-processing is in force.")
    decision: bool | None = Field(default=None, description="Of a `threshold` stage.")
    removed: bool | None = Field(default=None, description="True where the removal list has it.")


class LookupResponse(BaseModel):
    """Predictions in the order of the instances."""

    model: str
    predictions: list[LookupAnswer]
