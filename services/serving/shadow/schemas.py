"""What the API tells of a shadow."""

from datetime import datetime

from pydantic import BaseModel, Field

from services.serving.schemas import Beside


class ScoreDelta(BaseModel):
    """How far the shadow's scores are from those that were answered; null without comparisons."""

    mean: float | None = Field(description="Of shadow minus live.")
    mean_abs: float | None
    p50_abs: float | None
    p90_abs: float | None
    p99_abs: float | None
    max_abs: float | None


class Disagreement(BaseModel):
    """How often the two are on different sides of a threshold."""

    threshold: float
    share: float | None = Field(description="Of the rows; null without comparisons.")


class RunTimes(BaseModel):
    """Processor time of a request's run, both in the shadow's process; null without comparisons."""

    live_us: float | None = Field(description="Mean.")
    shadow_us: float | None = Field(description="Mean.")
    p50_delta_us: float | None = Field(description="Of shadow minus live, request by request.")


class ShadowView(BaseModel):
    """The newest comparisons of a shadow, at most 20,000 requests of all replicas."""

    model: str
    shadow: Beside | None = Field(description="The shadow of now.")
    version: int = Field(description="The version that is summed up.")
    live_version: int | None = Field(description="The version that it was compared with; null: with any.")
    requests: int
    rows: int
    first_at: datetime | None
    last_at: datetime | None
    delta: ScoreDelta
    disagreement: Disagreement | None = Field(description="Null for a regression without `threshold`.")
    run: RunTimes
