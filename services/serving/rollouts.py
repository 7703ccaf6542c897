"""What stands beside the live version, in the caller's transaction: the canary, which answers users and so needs what a live
version needs, and the shadow, which answers nobody. The live version stays what it is, and what a roll back goes to as well.
"""

from sqlmodel import Session

from services.serving import pointer, repository
from services.serving.errors import NothingDeployed, NotValidated
from services.serving.pointer import Released
from services.serving.schemas import CanaryRequest, ShadowRequest
from shared.errors import Invalid
from shared.registry.states import DeploymentAction, VersionState
from shared.registry.tables import Deployment, DeploymentChange, ModelVersion


def set_canary(session: Session, name: str, order: CanaryRequest, actor: str) -> Released:
    """Begin, weigh anew or end a canary. Raises as `Releases.set_canary`."""
    pipeline = repository.pipeline_id(session, name)
    wanted = None
    if order.version is not None and order.weight:
        wanted = repository.find_version(session, pipeline, order.version)
    current = _deployed(repository.locked_pointer(session, pipeline))
    weight = order.weight if wanted else None
    there = (current.canary_version_id, current.canary_weight) == (wanted.id if wanted else None, weight)
    if there and pointer.repeated(current, order.expected_generation):
        return pointer.unchanged(session, current)
    pointer.expect(session, current, order.expected_generation)
    change = _change(session, current, DeploymentAction.CANARY, order, actor)
    change.shadow_version_id, change.shadow_sample = current.shadow_version_id, current.shadow_sample
    if wanted is not None:
        _not_live(current, wanted)
        change.canary_version_id, change.canary_weight = wanted.id, weight
        _allow(session, current, change, wanted, order.override)
    return pointer.write(session, current, change, wanted)


def set_shadow(session: Session, name: str, order: ShadowRequest, actor: str) -> Released:
    """Begin, sample anew or end a shadow. Raises as `Releases.set_shadow`."""
    pipeline = repository.pipeline_id(session, name)
    wanted = None
    if order.version is not None and order.sample:
        wanted = repository.find_version(session, pipeline, order.version)
    current = _deployed(repository.locked_pointer(session, pipeline))
    sample = order.sample if wanted else None
    there = (current.shadow_version_id, current.shadow_sample) == (wanted.id if wanted else None, sample)
    if there and pointer.repeated(current, order.expected_generation):
        return pointer.unchanged(session, current)
    pointer.expect(session, current, order.expected_generation)
    change = _change(session, current, DeploymentAction.SHADOW, order, actor)
    change.canary_version_id, change.canary_weight = current.canary_version_id, current.canary_weight
    if wanted is not None:
        _not_live(current, wanted)
        change.shadow_version_id, change.shadow_sample = wanted.id, sample
    return pointer.write(session, current, change, wanted)


def _deployed(current: Deployment | None) -> Deployment:
    if current is None:
        raise NothingDeployed("No version is live yet, so that none can stand beside it. Promote one first.")
    return current


def _not_live(current: Deployment, version: ModelVersion) -> None:
    if current.live_version_id == version.id:
        raise Invalid(
            f"Version {version.number} is live already; name another one.",
            errors=[{"loc": ["body", "version"], "msg": "is the live version"}],
        )


def _change(
    session: Session, current: Deployment, action: DeploymentAction, order: CanaryRequest | ShadowRequest, actor: str
) -> DeploymentChange:
    """A change that leaves the live version as it is."""
    return DeploymentChange(
        pipeline_id=current.pipeline_id,
        generation=current.generation + 1,
        action=action,
        version_id=current.live_version_id,
        previous_version_id=pointer.previous_of(session, current),
        actor=actor,
        reason=order.reason,
        effective_at=order.effective_at,
    )


def _allow(
    session: Session,
    current: Deployment,
    change: DeploymentChange,
    version: ModelVersion,
    override: str | None,
) -> None:
    """Say in the change by what right the canary answers: its newest verdict, or somebody's word.

    A word given for it holds as long as it is the canary, and nothing more is asked of one that answers less than before.
    """
    verdict = repository.promoting_verdict(session, version, None) if version.state == VersionState.VALIDATED else None
    change.validation_id = verdict.id if verdict else None
    same = current.canary_version_id == version.id
    if override is not None:
        change.override = f"{change.actor}: {override}"
    elif same:
        change.override = current.canary_override
    less = same and (change.canary_weight or 0) <= (current.canary_weight or 0)
    if verdict is None and change.override is None and not less:
        raise NotValidated(pointer.why_not(version))
