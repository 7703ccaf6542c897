"""Which event times a dataset's train and test rows lie in. Pure: decided by the spec and `as_of` alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.instances import FIRST
from shared.spec import PipelineSpec


@dataclass(frozen=True)
class Window:
    """A half-open range of event time: [start, end)."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Windows:
    """The two windows; the gap between them belongs to neither."""

    train: Window
    test: Window


def windows(spec: PipelineSpec, as_of: datetime) -> Windows:
    """Split by time, the newest part for testing.

    With end = as_of - label.mature_after (younger examples may still get their label, so none of them counts):

        test  = [end - test, end)
        train = [end - window, end - test - gap)
    """
    rules = spec.dataset
    end = _back(as_of, spec.label.mature_after)
    test_start = _back(end, rules.test)
    return Windows(Window(_back(end, rules.window), _back(test_start, rules.gap)), Window(test_start, end))


def _back(moment: datetime, by: timedelta) -> datetime:
    """So much earlier, but never before the first moment that any event may have."""
    return moment - by if moment - FIRST > by else FIRST
