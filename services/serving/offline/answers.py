"""What a lookup answers, and by which rules. Plain values and pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from services.serving.models.catalogue import Pipeline
from services.serving.postprocessing.columns import text_of
from services.serving.postprocessing.current import Configuration
from services.serving.postprocessing.removals import KEY
from shared.spec.types import parse_duration

if TYPE_CHECKING:
    from services.serving.offline.generation import Found, Generation

OFFLINE, ONLINE, DEFAULT = "offline", "online", "default"


class OfflineAnswer(msgspec.Struct, gc=False):
    """One key's answer."""

    key: str
    source: str
    score: float | None
    """After post-processing; None where the key is on the removal list."""
    model_version: int | None = None
    generation: int | None = None
    """Online: of the features that were scored, when they were not sent."""
    computed_at: str | None = None
    staleness_s: float | None = None
    prediction_id: str | None = None
    raw_score: float | msgspec.UnsetType | None = msgspec.UNSET
    decision: bool | msgspec.UnsetType | None = msgspec.UNSET
    removed: bool | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the lookups of a pipeline: of its spec, and of its post-processing."""

    spec_version: int
    key: str
    time: str
    max_staleness_us: int | None
    default: float | None
    single: Configuration | None
    """Post-processing of single scores, where it does anything."""
    removed_by: frozenset[str]
    """Fields that the removal list names, the key aside."""

    def blind(self, generation: "Generation") -> bool:
        """Whether the removal list names a field that the generation does not hold: then it cannot tell what it may answer."""
        return not self.removed_by <= generation.fields(self.key, self.time)

    def removed_as_sent(self, instance: Mapping[str, Any]) -> bool:
        """Whether the removal list names what the instance says of itself, whatever it said when it was scored."""
        items = self.single.removals.items if self.single is not None else {}
        return any(text_of(instance.get(name)) in items[name] for name in self.removed_by)

    def default_for(self, key: str) -> OfflineAnswer | None:
        """The default's answer; None when there is none, or nobody can tell that the key may be answered."""
        if self.default is None or self.removed_by:
            return None
        if self.single is not None and key in self.single.removals.items.get(KEY, ()):
            return OfflineAnswer(key, DEFAULT, None, raw_score=None, removed=True)
        return OfflineAnswer(key, DEFAULT, self.default)

    def limit_us(self, asked_s: float | None) -> int | None:
        """How old an offline answer may be: the least of what the request and the spec allow."""
        limits = [self.max_staleness_us, None if asked_s is None else int(asked_s * 1e6)]
        return min((limit for limit in limits if limit is not None), default=None)

    def offline(
        self, generation: "Generation", found: "Found", key: str, *, now_us: int, limit_us: int | None
    ) -> OfflineAnswer | None:
        """The answer that was made ahead; None when it is older than allowed."""
        age_us = max(0, now_us - generation.computed_us)
        if limit_us is not None and age_us > limit_us:
            return None
        offline = generation.offline
        answer = OfflineAnswer(
            key, OFFLINE, found.score, offline.version, offline.number, generation.computed_at, round(age_us / 1e6, 3)
        )
        if self.single is not None:
            done = self.single.plan.single([found.score], [key], _Stored(generation, found))
            answer.score = done.scores[0]
            answer.raw_score = found.score if answer.score is not None else None
            if answer.score is None:
                answer.removed = True
            if done.decisions is not None:
                answer.decision = done.decisions[0]
        return answer


def rules_of(pipeline: Pipeline, single: Configuration | None) -> Rules:
    """The rules of a pipeline's current spec."""
    offline = pipeline.spec.get("offline") or {}
    longest, key = offline.get("max_staleness"), str(pipeline.spec["key"])
    return Rules(
        spec_version=pipeline.spec_version,
        key=key,
        time=str(pipeline.spec["time"]),
        max_staleness_us=None if longest is None else parse_duration(longest) // timedelta(microseconds=1),
        default=offline.get("default"),
        single=single,
        removed_by=frozenset() if single is None else frozenset(single.removals.items) - {KEY, key},
    )


def nothing(pipeline: Pipeline, rules: Rules, generation: "Generation | None", *, known: bool) -> str:
    """Why nothing can answer, and what would cure it."""
    if generation is None:
        what = f"{pipeline.name} has no offline predictions on this replica yet"
    elif rules.blind(generation):
        fields = ", ".join(sorted(rules.removed_by - generation.fields(rules.key, rules.time))[:5])
        what = f"The removal list goes by {fields}, which generation {generation.offline.number} does not hold"
    elif known:
        what = "The key's offline prediction is older than allowed, and no live version can score its features"
    else:
        what = f"Generation {generation.offline.number} of {pipeline.name} has no such key"
    return (
        f"{what}. Precompute it (POST /v1/models/{pipeline.name}/precompute), send its features to "
        f"POST /v1/models/{pipeline.name}/predictions, or give the pipeline a default (offline.default)."
    )


class _Stored:
    """The fields of one row of a generation, read when they are asked for."""

    def __init__(self, generation: "Generation", found: "Found") -> None:
        self._generation, self._found = generation, found

    def values(self, name: str) -> list[Any]:
        """As `Columns.values`."""
        return [self._generation.value(self._found, name)]

    def vectors(self, name: str) -> np.ndarray:
        """As `Columns.vectors`."""
        vector = self._generation.value(self._found, name)
        return np.array([vector], np.float32) if isinstance(vector, list) else np.zeros((1, 1), np.float32)
