"""Post-processing: ordered stages between a model's score and the answer. The pipeline file has the first ones; serving's admin API
replaces them while the model serves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.spec.features import Feature, VectorFeature
from shared.spec.types import FieldName, Text

MAX_STAGES = 32
MAX_VALUES = 10_000
"""Most values that a condition lists."""

Finite = Annotated[float, Field(ge=-1e16, le=1e16, allow_inf_nan=False)]
Scalar = Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Finite | Text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(_Part):
    """What holds for a candidate by one field of its instance. It never holds where the field is missing."""

    field: FieldName
    one_of: list[Scalar] | None = Field(default=None, min_length=1, max_length=MAX_VALUES)
    """The field equals one of them; a text never equals a number."""
    at_least: Finite | None = None
    """The field is a number, and at least this. Times count in epoch microseconds."""
    at_most: Finite | None = None
    """The field is a number, and at most this."""

    @model_validator(mode="after")
    def _says_something(self) -> "Condition":
        if self.one_of is None and self.at_least is None and self.at_most is None:
            raise ValueError("give one_of, at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is above at_most: that never holds")
        return self


# For single scores and for lists


class ClipStage(_Part):
    """Scores are kept within bounds."""

    type: Literal["clip"]
    low: Finite | None = None
    high: Finite | None = None

    @model_validator(mode="after")
    def _bounds(self) -> "ClipStage":
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self


class Platt(_Part):
    """Platt scaling of a probability p: 1 / (1 + exp(-(slope * log(p / (1 - p)) + intercept))). J. Platt, 1999."""

    slope: Finite = Field(gt=0)
    """Above 0, so that the order of scores stays."""
    intercept: Finite = 0.0


class CalibrateStage(_Part):
    """Scores are mapped by a function fitted elsewhere: piecewise linear (so can isotonic regression be given) or Platt scaling."""

    type: Literal["calibrate"]
    points: list[tuple[Finite, Finite]] | None = Field(default=None, min_length=2, max_length=1000)
    """(score, mapped to), by rising score, between them linear; below the first and above the last the ends' values."""
    platt: Platt | None = None
    """Of probabilities; what is outside of (0, 1) counts as the nearest double within."""

    @model_validator(mode="after")
    def _one_form(self) -> "CalibrateStage":
        if (self.points is None) == (self.platt is None):
            raise ValueError("give either points or platt")
        if self.points and any(
            after[0] <= before[0] for before, after in zip(self.points, self.points[1:], strict=False)
        ):
            raise ValueError("points must go by rising score, none twice")
        return self


class ThresholdStage(_Part):
    """The decision: whether the score, as it is at this stage, is at least `at`. A list keeps only what reaches it."""

    type: Literal["threshold"]
    at: Finite


# For lists alone


class FilterStage(_Part):
    """Candidates leave the list."""

    type: Literal["filter"]
    keep: Condition | None = None
    """Only those stay for which it holds."""
    drop: Condition | None = None
    """Those leave for which it holds."""

    @model_validator(mode="after")
    def _one_way(self) -> "FilterStage":
        if (self.keep is None) == (self.drop is None):
            raise ValueError("give either keep or drop")
        return self


class BoostStage(_Part):
    """The scores of some candidates change: first times `multiply`, then plus `add`. Below 1 and below 0 they demote."""

    type: Literal["boost"]
    where: Condition
    multiply: float = Field(default=1.0, gt=0, le=1e6)
    """Of a negative score it does the opposite; use `add` where scores can be."""
    add: Finite = 0.0

    @model_validator(mode="after")
    def _changes(self) -> "BoostStage":
        if self.multiply == 1 and self.add == 0:
            raise ValueError("give multiply or add")
        return self


class DemoteStage(_Part):
    """Some candidates go below all others, whatever the scores; one that is demoted by two stages goes below those by one."""

    type: Literal["demote"]
    where: Condition


class DiversifyStage(_Part):
    """Maximal marginal relevance: of the candidates keeps `k`, each the best of what is left by weight * relevance - (1 - weight) *
    its greatest similarity to those before it. Carbonell and Goldstein, SIGIR 1998.

    Relevance is the score, scaled to [0, 1] over the candidates that reach the stage. Similarity is the mean over `fields` (1 where
    two values are equal, else 0; missing equals nothing) and the cosine of `vector`, in one mean with the fields.
    """

    type: Literal["diversify"]
    k: int = Field(ge=1, le=1000)
    relevance_weight: float = Field(default=0.7, ge=0, le=1)
    fields: list[FieldName] = Field(default=[], max_length=8)
    vector: FieldName | None = None

    @model_validator(mode="after")
    def _alike_by_something(self) -> "DiversifyStage":
        if not self.fields and self.vector is None:
            raise ValueError("give fields, vector or both")
        if len(set(self.fields)) != len(self.fields):
            raise ValueError("fields names one twice")
        return self


class CapStage(_Part):
    """At most so many candidates of one value of a field stay, the first ones. Where the field is missing, none are too many."""

    type: Literal["cap"]
    field: FieldName
    most: int = Field(ge=1, le=10_000)


class TopStage(_Part):
    """The first `k` candidates stay."""

    type: Literal["top"]
    k: int = Field(ge=1, le=1_000_000)


Stage = Annotated[
    ClipStage
    | CalibrateStage
    | ThresholdStage
    | FilterStage
    | BoostStage
    | DemoteStage
    | DiversifyStage
    | CapStage
    | TopStage,
    Field(discriminator="type"),
]
Stages = Annotated[list[Stage], Field(max_length=MAX_STAGES)]
"""In the order in which they are done."""

SINGLE = (ClipStage, CalibrateStage, ThresholdStage)
"""What single scores go through; the other kinds are for lists."""
RESCORING = (ClipStage, CalibrateStage, BoostStage, DemoteStage)


def conditions_of(stage: Stage) -> list[tuple[str, Condition]]:
    """The conditions of a stage, by the name of the field they stand in."""
    match stage:
        case FilterStage():
            return [(name, value) for name, value in (("keep", stage.keep), ("drop", stage.drop)) if value is not None]
        case BoostStage() | DemoteStage():
            return [("where", stage.where)]
        case _:
            return []


def problems(
    stages: Sequence[Stage], *, known: Mapping[str, Feature | None], task: str
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with stages for a pipeline: where in the list, and what.

    Args:
        known: every field of an instance; None for those that are no feature (key, time, entity, columns).
        task: binary or regression.
    """
    diversified = False
    thresholds = 0
    for index, stage in enumerate(stages):
        for place, name in _fields_of(stage):
            if name not in known:
                yield (index, *place), f"{name} is no field of this pipeline's instances"
            elif isinstance(known[name], VectorFeature) != (place == ("vector",)):
                vector = isinstance(known[name], VectorFeature)
                told = "is a vector, which only diversify.vector takes" if vector else "is not a vector feature"
                yield (index, *place), f"{name} {told}"
        if isinstance(stage, CalibrateStage) and stage.platt is not None and task != "binary":
            yield (index, "platt"), "Platt scaling is for probabilities; use points"
        if diversified and isinstance(stage, (*RESCORING, DiversifyStage)):
            yield (index,), "follows diversify, whose order it would undo; put it before"
        diversified = diversified or isinstance(stage, DiversifyStage)
        thresholds += isinstance(stage, ThresholdStage)
        if isinstance(stage, ThresholdStage) and thresholds > 1:
            yield (index,), "is a second threshold; there is one decision"


def _fields_of(stage: Stage) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for place, condition in conditions_of(stage):
        yield (place, "field"), condition.field
    match stage:
        case DiversifyStage():
            yield from ((("fields", index), name) for index, name in enumerate(stage.fields))
            if stage.vector is not None:
                yield ("vector",), stage.vector
        case CapStage():
            yield ("field",), stage.field
