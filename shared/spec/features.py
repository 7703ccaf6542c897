"""The kinds of feature a pipeline may declare. Each becomes named inputs and a piece of the one ONNX graph."""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.spec.types import FieldName


class _FeatureBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NumberFeature(_FeatureBase):
    """A finite number; absent or null is missing. Input: float32 [n], NaN where missing."""

    type: Literal["number"]
    required: bool = False
    impute: Literal["median", "mean", "zero"] = "median"
    """What stands in for a missing value, fitted on the train split; a missing flag is fed beside it when any was missing."""
    transform: Literal["none", "log1p", "quantile"] = "none"
    """`log1p` keeps the sign: sign(x) * log(1 + |x|). `quantile` adds the position among the train split's quantiles, in [0, 1]."""
    scale: Literal["standard", "minmax", "none"] = "standard"


class CategoryFeature(_FeatureBase):
    """A short text; absent or null is the empty string. Input: string [n]."""

    type: Literal["category"]
    required: bool = False
    vocabulary: int = Field(ge=1, le=1_000_000)
    """Most values kept: the most frequent of the train split; the rest share the out-of-vocabulary buckets."""
    oov_buckets: int = Field(default=1, ge=1, le=4096)
    """Values outside the vocabulary are hashed (MurmurHash3) into this many buckets."""


class TimestampFeature(_FeatureBase):
    """A moment (ISO 8601 with offset, or epoch microseconds); always required. Input: int64 [n], epoch microseconds UTC."""

    type: Literal["timestamp"]
    calendar: list[Literal["minute_of_day", "hour", "weekday", "day", "month"]] = Field(min_length=1, max_length=5)
    """Calendar parts in local time, each once."""
    timezone: str = "UTC"
    """IANA zone; its transitions are compiled into the graph as a table."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("must be an IANA time zone, such as America/New_York")
        ZoneInfo(value)
        return value

    @field_validator("calendar")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("names a calendar part twice")
        return value


class CrossFeature(_FeatureBase):
    """The combination of two or more category features, hashed. It has no input of its own."""

    type: Literal["cross"]
    of: list[FieldName] = Field(min_length=2, max_length=4)
    buckets: int = Field(ge=2, le=1_000_000)


class VectorFeature(_FeatureBase):
    """A fixed-length list of finite numbers, all given. Input: float32 [n, length]."""

    type: Literal["vector"]
    length: int = Field(ge=1, le=65_536)
    scale: Literal["standard", "none"] = "standard"


Feature = Annotated[
    NumberFeature | CategoryFeature | TimestampFeature | CrossFeature | VectorFeature, Field(discriminator="type")
]
