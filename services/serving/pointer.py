"""What every change of the deployment pointer does alike: compare, carry over what it leaves alone, write, and tell the outcome."""

import uuid
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from services.serving import repository
from services.serving.errors import GenerationMoved, NotValidated
from services.serving.models.catalogue import Share
from services.serving.offline.requests import after_release
from shared.registry.states import DeploymentAction, VersionState
from shared.registry.tables import Deployment, DeploymentChange, ModelVersion

CHECK_VIOLATION = "23514"


@dataclass(frozen=True, slots=True)
class Released:
    """The pointer after a change."""

    live: int
    generation: int
    previous: int | None
    changed: bool
    canary: Share | None = None
    shadow: Share | None = None


def expect(session: Session, current: Deployment | None, expected: int | None) -> None:
    """Raise GenerationMoved unless the pointer is where the caller saw it; None: wherever it is."""
    generation = current.generation if current else 0
    if expected is None or expected == generation:
        return
    live = f"version {_number(session, current.live_version_id)} is live" if current else "nothing is deployed"
    raise GenerationMoved(
        f"The deployment is at generation {generation}, not {expected}: {live}. Look again and decide anew.",
        errors=[{"loc": ["body", "expected_generation"], "msg": f"the generation is {generation}"}],
    )


def repeated(current: Deployment, expected: int | None) -> bool:
    """Whether the pointer is where the caller saw it or one change on, which may be his own."""
    return expected is None or expected in (current.generation, current.generation - 1)


def keep_beside(change: DeploymentChange, current: Deployment | None, *, canary: bool) -> None:
    """Carry over the shadow, and the canary if it is to stay; one that is the live version now has come to its end."""
    if current is None:
        return
    if canary and current.canary_version_id != change.version_id:
        change.canary_version_id, change.canary_weight = current.canary_version_id, current.canary_weight
    if current.shadow_version_id != change.version_id:
        change.shadow_version_id, change.shadow_sample = current.shadow_version_id, current.shadow_sample


def unchanged(session: Session, current: Deployment) -> Released:
    """The pointer as it is."""
    return _released(session, current, previous_of(session, current), changed=False)


def previous_of(session: Session, current: Deployment) -> uuid.UUID | None:
    """What was live before the live version."""
    last = session.get(DeploymentChange, (current.pipeline_id, current.generation))
    return last.previous_version_id if last else None


def write(
    session: Session, current: Deployment | None, change: DeploymentChange, version: ModelVersion | None
) -> Released:
    """Write the change.

    Args:
        version: the one that the change lets answer.

    Raises:
        GenerationMoved: another change came first.
        NotValidated: the database finds no verdict.
    """
    previous = change.previous_version_id
    try:
        pointer = repository.write_pointer(session, current, change)
    except IntegrityError as error:
        if version is not None and getattr(error.orig, "sqlstate", None) == CHECK_VIOLATION:
            raise NotValidated(why_not(version)) from error
        raise GenerationMoved("Another change of the deployment came first. Look again and decide anew.") from error
    if change.action in (DeploymentAction.PROMOTE, DeploymentAction.ROLLBACK):
        after_release(session, change.pipeline_id, change.actor)
    return _released(session, pointer, previous, changed=True)


def why_not(version: ModelVersion) -> str:
    """Why a version may not answer without an override."""
    state = {
        VersionState.REJECTED: f"Version {version.number} was rejected by its validation",
        VersionState.HELD: f"Version {version.number} is held: its validation waits for approval",
    }.get(VersionState(version.state), f"No verdict promotes version {version.number}")
    return f"{state}. Validate it, or give `override` with the reason why it may live without."


def _released(session: Session, pointer: Deployment, previous: uuid.UUID | None, *, changed: bool) -> Released:
    numbers = repository.version_numbers(
        session, (pointer.live_version_id, previous, pointer.canary_version_id, pointer.shadow_version_id)
    )
    return Released(
        live=numbers[pointer.live_version_id],
        generation=pointer.generation,
        previous=numbers.get(previous),
        changed=changed,
        canary=repository.share_of(numbers.get(pointer.canary_version_id), pointer.canary_weight),
        shadow=repository.share_of(numbers.get(pointer.shadow_version_id), pointer.shadow_sample),
    )


def _number(session: Session, version: uuid.UUID) -> int:
    return repository.version_numbers(session, [version])[version]
