"""What the shadow's process tells serving, a line of JSON now and then."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What became of a request that was sampled for the shadow."""

    COMPARED = "compared"  #: scored by both; the scores are in the registry
    BUSY = "busy"  #: shed: too many rows waited for the live version
    FULL = "full"  #: shed: too many requests wait for the shadow
    UNREAD = "unread"  #: the shadow reads fields that the request does not have
    FAILED = "failed"  #: the shadow, or the live version beside it, cannot be loaded or gives no finite scores
    UNSTORED = "unstored"  #: compared, and dropped: PostgreSQL did not take it
    LOST = "lost"  #: waited for the process, which ended


@dataclass(slots=True)
class Report:
    """What happened since the report before."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests by model and outcome."""
    largest: list[tuple[str, float]] = field(default_factory=list)
    """Of each request that was compared: the model, and the largest |shadow - live| of its rows."""

    def to_document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "outcomes": [[model, outcome, count] for (model, outcome), count in self.outcomes.items()],
            "largest": self.largest,
        }

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> "Report":
        """The inverse of `to_document`."""
        outcomes = Counter({(model, outcome): count for model, outcome, count in document["outcomes"]})
        return cls(outcomes, [(model, largest) for model, largest in document["largest"]])
