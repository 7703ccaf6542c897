"""What the API of lists and of post-processing takes and gives, as documented in OpenAPI."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.serving.schemas import MadeUnder, Number
from shared.spec.postprocessing import Scalar, Stage, Stages
from shared.spec.types import FieldName, Text

MOST_AT_ONCE = 10_000
"""Items in one change of the removal list."""
MOST_REMOVED = 100_000
"""Items on a pipeline's removal list."""
MAX_K = 1_000_000

Reason = Annotated[Text, Field(min_length=1, description="Why; kept in the history.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


# Lists


class RankRequest(_Request):
    """Candidates to put in order."""

    candidates: list[dict[str, Any]] = Field(
        min_length=1, description="As the instances of a prediction; no two have the same key."
    )
    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True)] | None = Field(
        default=None, description="Most items in the answer."
    )
    trace: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Say of each item what the stages did to it, and which candidates were dropped by what.",
    )
    version: Number | None = Field(
        default=None,
        description="Another version than the live one; needs the scope `predict:version`. Logged as pinned.",
    )


class Note(BaseModel):
    """What one stage did to one candidate."""

    stage: int | None = Field(default=None, description="Place among the stages, from 0; absent for the removal list.")
    type: str = Field(description="Kind of the stage, or `removal`.")
    score: float | None = Field(default=None, description="The score after it, where it changed.")
    tier: int | None = Field(default=None, description="After demote: 0 is above 1.")
    position: int | None = Field(default=None, description="After diversify: the position it gave.")
    dropped: bool | None = Field(default=None, description="The candidate left the list.")


class RankedItem(BaseModel):
    """One item of the list."""

    prediction_id: str = Field(description="Send it back with the truth, to /feedback.", min_length=54, max_length=54)
    key: str
    position: int = Field(description="From 1.")
    score: float = Field(description="After post-processing. Diversify and demote order by more than it.")
    raw_score: float = Field(description="The model's.")
    trace: list[Note] | None = Field(default=None, description="Absent unless asked for.")


class DroppedItem(BaseModel):
    """A candidate that is not in the list."""

    prediction_id: str
    key: str
    raw_score: float
    trace: list[Note] = Field(description="The last note says what dropped it; empty when `k` did.")


class RankResponse(BaseModel):
    """The list, best first; equal ones by key, whatever the order of the candidates was."""

    model: str
    model_version: int
    items: list[RankedItem]
    postprocessing: MadeUnder
    dropped: list[DroppedItem] | None = Field(default=None, description="Absent unless a trace was asked for.")


# Stages


class StagesRequest(_Request):
    """Stages that take the place of those in force."""

    stages: Stages | None = Field(description="In order; null: those of the pipeline's current spec, now and later.")
    expected_number: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] | None = Field(
        default=None,
        description=(
            "Change only if the newest order still has this number (0: none yet); else 409. "
            "A request that names it may be sent again: it takes effect once."
        ),
    )
    reason: Reason


class StagesResponse(BaseModel):
    """After the change."""

    model: str
    number: int = Field(description="The order's number.")
    changed: bool = Field(description="False when just these stages were ordered already.")
    applied: bool = Field(
        description="Whether the process that answered applies it already; the others follow within two seconds."
    )


class StagesView(BaseModel):
    """The stages in force, as this replica sees it."""

    model: str
    number: int | None = Field(description="Number of the order they are from; null: they are a spec's.")
    spec_version: int | None = Field(description="Version of that spec; null: they were ordered.")
    stages: list[Stage]
    newest_number: int = Field(description="The newest order's number; 0 when there is none.")
    problem: str | None = Field(description="Why newer stages are not in force.")


class StagesChangeView(BaseModel):
    """One order about the stages."""

    number: int
    stages: list[dict[str, Any]] | None = Field(description="Null: those of the pipeline's current spec.")
    actor: str = Field(description="Name of the API key.")
    reason: str
    created_at: datetime


# Removals


class RemovalRequest(_Request):
    """Items to remove or to reinstate."""

    items: list[Scalar] = Field(
        min_length=1,
        max_length=MOST_AT_ONCE,
        description="Values of the field. 7, 7.0 and the text 7 are one item; texts are compared as they are.",
    )
    field: FieldName | None = Field(
        default=None, description="The field of an instance they stand in; default: the key."
    )
    reason: Reason


class RemovalResponse(BaseModel):
    """After the change."""

    model: str
    sequence: int = Field(
        description="The removal list's sequence; an answer made under this or a later one respects it."
    )
    changed: int = Field(description="Items whose place on the list it changed; the others were as asked already.")
    applied: bool = Field(
        description="Whether the process that answered applies it already; the others follow within two seconds."
    )


class RemovedItems(BaseModel):
    """Items by one field."""

    field: str = Field(description="Name of the field; that of the key for keys.")
    items: list[str] = Field(description="Values as texts.")


class RemovalsView(BaseModel):
    """The removal list, as this replica applies it."""

    model: str
    sequence: int
    count: int
    removed: list[RemovedItems]


class RemovalChangeView(BaseModel):
    """One change of the removal list."""

    sequence: int
    action: str = Field(description="remove or reinstate.")
    field: str
    items: list[str]
    actor: str = Field(description="Name of the API key.")
    reason: str
    created_at: datetime
