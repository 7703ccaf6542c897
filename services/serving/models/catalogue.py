"""What serving knows of the registry, kept in memory and on disk, so that no request needs the database. Plain values, no I/O."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from services.serving.postprocessing.removals import Removals
from shared.errors import NotFound
from shared.keys import Principal


@dataclass(frozen=True, slots=True)
class Version:
    """One model version: where its bytes are and what they take."""

    id: uuid.UUID
    number: int
    state: str
    digest: str
    signature: Mapping[str, Any]
    """`{"inputs": [{"name", "kind", "required", "length"?}], "output": "score", "task", "golden"?}`."""
    spec_version: int
    train_end: datetime
    train_label_mean: float

    @property
    def golden(self) -> str | None:
        """Digest of its golden vectors; None for a version of before there were any."""
        return self.signature.get("golden")

    @property
    def digests(self) -> set[str]:
        """Every artifact that loading it takes."""
        return {self.digest} if self.golden is None else {self.digest, self.golden}


@dataclass(frozen=True, slots=True)
class Share:
    """A version that has a share of the requests."""

    version: int
    share: float
    """Above 0, at most 1."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The deployment pointer of one pipeline."""

    generation: int
    live: int
    """Number of the live version."""
    previous: int | None = None
    """Number of the version that was live before."""
    canary: Share | None = None
    """Answers its share in the live version's stead."""
    shadow: Share | None = None
    """Scores its share of what the live version answers, for comparison alone."""


@dataclass(frozen=True, slots=True)
class StagesOrder:
    """The newest order about post-processing stages."""

    number: int
    stages: Sequence[Mapping[str, Any]] | None
    """As documents; None: those of the current spec."""


@dataclass(frozen=True, slots=True)
class Offline:
    """The generation of offline predictions that answers."""

    number: int
    digest: str
    """Of its manifest."""
    version: int
    """Number of the version that scored it."""
    computed_at: datetime
    """When its rows were read."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline with everything that may serve it."""

    id: uuid.UUID
    name: str
    spec_version: int
    specs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Spec documents by number: those of the versions, and the current one."""
    versions: Mapping[int, Version] = field(default_factory=dict)
    pointer: Pointer | None = None
    stages_order: StagesOrder | None = None
    """None: nobody has ordered other stages than the spec's."""
    removals: Removals = field(default_factory=Removals)
    offline: Offline | None = None

    @property
    def spec(self) -> Mapping[str, Any]:
        """The current spec document."""
        return self.specs[self.spec_version]

    @property
    def task(self) -> str:
        """binary or regression; the same in all spec versions."""
        return str(self.spec["task"])

    def version(self, number: int) -> Version:
        """One version by number.

        Raises:
            NotFound: there is none.
        """
        found = self.versions.get(number)
        if found is None:
            raise NotFound(f"The pipeline {self.name} has no version {number}.")
        return found


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All pipelines by name, as of one reading."""

    pipelines: Mapping[str, Pipeline] = field(default_factory=dict)

    def visible(self, caller: Principal) -> list[Pipeline]:
        """The pipelines the caller's key may see, by name."""
        return [self.pipelines[name] for name in sorted(self.pipelines) if caller.allows_pipeline(name)]


def to_document(catalogue: Catalogue) -> dict[str, Any]:
    """The catalogue as JSON values."""
    return {
        "pipelines": [
            {
                "id": str(pipeline.id),
                "name": pipeline.name,
                "spec_version": pipeline.spec_version,
                "specs": [{"number": number, "spec": spec} for number, spec in pipeline.specs.items()],
                "versions": [
                    {
                        "id": str(version.id),
                        "number": version.number,
                        "state": version.state,
                        "digest": version.digest,
                        "signature": version.signature,
                        "spec_version": version.spec_version,
                        "train_end": version.train_end.isoformat(),
                        "train_label_mean": version.train_label_mean,
                    }
                    for version in pipeline.versions.values()
                ],
                "pointer": pipeline.pointer and asdict(pipeline.pointer),
                "stages_order": pipeline.stages_order and asdict(pipeline.stages_order),
                "removals": {
                    "sequence": pipeline.removals.sequence,
                    "items": {name: sorted(items) for name, items in pipeline.removals.items.items()},
                },
                "offline": pipeline.offline
                and {**asdict(pipeline.offline), "computed_at": pipeline.offline.computed_at.isoformat()},
            }
            for pipeline in catalogue.pipelines.values()
        ]
    }


def from_document(document: Mapping[str, Any]) -> Catalogue:
    """The inverse of `to_document`.

    Raises:
        KeyError, TypeError, ValueError: not such a document.
    """
    return Catalogue({entry["name"]: _pipeline(entry) for entry in document["pipelines"]})


def _pipeline(entry: Mapping[str, Any]) -> Pipeline:
    # An earlier release did not write these.
    offline = entry.get("offline")
    order, removals = entry.get("stages_order"), entry.get("removals") or {"sequence": 0, "items": {}}
    return Pipeline(
        id=uuid.UUID(entry["id"]),
        name=entry["name"],
        spec_version=entry["spec_version"],
        specs={spec["number"]: spec["spec"] for spec in entry["specs"]},
        versions={version["number"]: _version(version) for version in entry["versions"]},
        pointer=entry["pointer"] and _pointer(entry["pointer"]),
        stages_order=order and StagesOrder(**order),
        removals=Removals(removals["sequence"], {name: frozenset(items) for name, items in removals["items"].items()}),
        offline=offline and Offline(**{**offline, "computed_at": datetime.fromisoformat(offline["computed_at"])}),
    )


def _pointer(entry: Mapping[str, Any]) -> Pointer:
    # What was saved by a release before there were canaries has none.
    canary, shadow = entry.get("canary"), entry.get("shadow")
    return Pointer(
        generation=entry["generation"],
        live=entry["live"],
        previous=entry["previous"],
        canary=canary and Share(**canary),
        shadow=shadow and Share(**shadow),
    )


def _version(entry: Mapping[str, Any]) -> Version:
    return Version(
        id=uuid.UUID(entry["id"]),
        number=entry["number"],
        state=entry["state"],
        digest=entry["digest"],
        signature=entry["signature"],
        spec_version=entry["spec_version"],
        train_end=datetime.fromisoformat(entry["train_end"]),
        train_label_mean=entry["train_label_mean"],
    )
