"""Offline predictions in a pipeline file: which rows are scored ahead of their requests, when, and what answers without them."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.spec.cron import parse_cron
from shared.spec.types import Duration, Text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KeysSeen(_Part):
    """Every key that an event or a logged prediction named, with its latest instance."""

    since: Duration | None = None
    """Only instances whose event time lies at most so long ago; none: all."""


class OfflineSource(_Part):
    """Which rows are scored: exactly one of `keys_seen` and `dataset`."""

    keys_seen: KeysSeen | None = None
    dataset: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)] | Literal["latest"] | None = None
    """The number of a dataset, or the newest one that is ready."""
    split: Literal["train", "test"] | None = None
    """One split of the dataset; none: both."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "OfflineSource":
        if (self.keys_seen is None) == (self.dataset is None):
            raise ValueError("name exactly one source: keys_seen or dataset")
        if self.split is not None and self.dataset is None:
            raise ValueError("split: belongs to a dataset")
        return self


class OfflineSpec(_Part):
    """Predictions that are made ahead, in generations that replace each other, and looked up by key."""

    source: OfflineSource = OfflineSource(keys_seen=KeysSeen())
    """What the schedule and a release score."""
    schedule: Annotated[Text, AfterValidator(parse_cron)] | None = None
    """Cron, five fields, UTC; none: no schedule."""
    after_promotion: bool = True
    """Whether each change of the live version, a roll back too, starts a new generation."""
    max_staleness: Duration | None = None
    """An older prediction does not answer; none: any age does. A request may ask for less."""
    default: float | None = None
    """The score that answers when neither an offline nor an online prediction can."""

    @model_validator(mode="after")
    def _fits(self) -> "OfflineSpec":
        if self.max_staleness is not None and self.max_staleness <= timedelta(0):
            raise ValueError("max_staleness: must be longer than zero")
        return self
