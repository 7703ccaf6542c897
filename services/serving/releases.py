"""The use case: which versions answer. Compare-and-set on the generation, one history row a change, and nothing answers that this
replica could not load and warm.
"""

import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from sqlmodel import Session

from services.serving import pointer, repository, rollouts
from services.serving.config import ServingSettings
from services.serving.errors import GenerationMoved, NothingToRollBack, NotValidated
from services.serving.models.acquire import finished, load_and_lease
from services.serving.models.follower import Follower
from services.serving.models.slots import Lease, ModelSlots
from services.serving.pointer import Released
from services.serving.schemas import (
    CanaryRequest,
    PromoteRequest,
    ReleaseResponse,
    RollbackRequest,
    ShadowRequest,
    beside,
)
from services.serving.transactions import Transactions
from shared.errors import Invalid, NotFound, Unavailable
from shared.registry.states import DeploymentAction, VersionState
from shared.registry.tables import Deployment, DeploymentChange, ModelVersion, Validation


def rollback_target(history: Sequence[DeploymentChange]) -> uuid.UUID | None:
    """The version that was live before the current one, rollbacks undone: after 1, 2, 3 and a rollback to 2, the next target is 1.

    Args:
        history: all changes, oldest first.
    """
    lived: list[uuid.UUID] = []
    for change in history:
        if change.action == DeploymentAction.ROLLBACK and change.version_id in lived:
            while lived[-1] != change.version_id:
                lived.pop()
        elif not lived or lived[-1] != change.version_id:
            lived.append(change.version_id)
    return lived[-2] if len(lived) > 1 else None


class Releases:
    """Promotes and rolls back."""

    def __init__(
        self, transactions: Transactions, slots: ModelSlots, follower: Follower, settings: ServingSettings
    ) -> None:
        self._transactions = transactions
        self._slots = slots
        self._follower = follower
        self._settings = settings

    async def promote(self, name: str, order: PromoteRequest, actor: str) -> ReleaseResponse:
        """Make a version live.

        Raises:
            NotFound: no such pipeline or version.
            GenerationMoved: the pointer is not where the caller saw it.
            NotValidated: the newest verdict does not promote the version, and no override was given.
            NotLoadable: its artifact cannot serve.
            Invalid: the validation named is not one that promotes this version.
            Unavailable: loading takes too long, or the artifact store is away.
        """

        def change(session: Session) -> Released:
            return promote(session, name, order, actor)

        # Refused or done already: known before anything is loaded.
        await self._transactions.run(lambda session: _dry(session, change))
        return await self._release(name, order.version, change)

    async def roll_back(self, name: str, order: RollbackRequest, actor: str) -> ReleaseResponse:
        """Make the version live that was before. Repeated with the same `expected_generation`, it goes back once.

        Raises:
            NothingToRollBack: no version was live before.
            NotFound, GenerationMoved, NotLoadable, Unavailable: as for `promote`.
        """

        def change(session: Session) -> Released:
            return roll_back(session, name, order, actor)

        target = await self._transactions.run(lambda session: _dry(session, change))

        def change_to_loaded(session: Session) -> Released:
            released = change(session)
            if released.live != target.live:
                raise GenerationMoved("Another change of the deployment came first. Look again and decide anew.")
            return released

        return await self._release(name, target.live, change_to_loaded)

    async def set_canary(self, name: str, order: CanaryRequest, actor: str) -> ReleaseResponse:
        """Have a version answer a share of the keys, another share, or none any more.

        Raises:
            NotFound: no such pipeline or version.
            NothingDeployed: there is no live version to stand beside.
            Invalid: the version is live.
            GenerationMoved, NotValidated, NotLoadable, Unavailable: as for `promote`.
        """

        def change(session: Session) -> Released:
            return rollouts.set_canary(session, name, order, actor)

        await self._transactions.run(lambda session: _dry(session, change))
        return await self._release(name, order.version if order.weight else None, change)

    async def set_shadow(self, name: str, order: ShadowRequest, actor: str) -> ReleaseResponse:
        """Have a version score a share of the requests for comparison, another share, or none any more.

        Raises:
            NotFound, NothingDeployed, Invalid, GenerationMoved, NotLoadable, Unavailable: as for `set_canary`.
        """

        def change(session: Session) -> Released:
            return rollouts.set_shadow(session, name, order, actor)

        await self._transactions.run(lambda session: _dry(session, change))
        return await self._release(name, order.version if order.sample else None, change)

    async def _release(self, name: str, version: int | None, change: Callable[[Session], Released]) -> ReleaseResponse:
        """Write a change and wait until it is applied here; a version that begins to answer is loaded before."""
        with nullcontext() if version is None else await self._loaded(name, version):
            released = await self._transactions.run(change)
            self._follower.wake()
            applied = await self._applied(name, released)
        return ReleaseResponse(
            model=name,
            live_version=released.live,
            generation=released.generation,
            previous_version=released.previous,
            canary=beside(released.canary),
            shadow=beside(released.shadow),
            changed=released.changed,
            applied=applied,
        )

    async def _loaded(self, name: str, version: int) -> Lease:
        """A lease on the version: proof that it serves here, and a reason not to unload it before the switch."""
        pipeline = self._follower.catalogue.pipelines.get(name)
        if pipeline is None or version not in pipeline.versions:  # what is known of a version stays true
            catalogue = await self._transactions.run(
                lambda session: repository.read_catalogue(session, self._follower.catalogue)
            )
            pipeline = catalogue.pipelines.get(name)
        if pipeline is None:
            raise NotFound("There is no pipeline of that name.")
        wait_s = self._settings.load_wait_s
        return await load_and_lease(self._slots, pipeline, version, self._slots.hold, wait_s=wait_s, retry_now=True)

    async def _applied(self, name: str, released: Released) -> bool:
        try:
            await finished(
                self._slots.when_applied(name, released.generation), self._settings.apply_wait_s, "The change"
            )
        except Unavailable:
            return False
        return True


def promote(session: Session, name: str, order: PromoteRequest, actor: str) -> Released:
    """Move the pointer to a version, in the caller's transaction. Raises as `Releases.promote`."""
    pipeline = repository.pipeline_id(session, name)
    version = repository.find_version(session, pipeline, order.version)
    current = repository.locked_pointer(session, pipeline)
    if _took_effect(current, version.id, order.expected_generation):
        assert current is not None
        return pointer.unchanged(session, current)
    pointer.expect(session, current, order.expected_generation)
    verdict = repository.promoting_verdict(session, version, order.validation)
    if order.override is None:
        _check_validated(version, verdict, order)
    change = DeploymentChange(
        pipeline_id=pipeline,
        generation=(current.generation if current else 0) + 1,
        action=DeploymentAction.PROMOTE,
        version_id=version.id,
        previous_version_id=current.live_version_id if current else None,
        actor=actor,
        reason=order.reason,
        validation_id=verdict.id if verdict else None,
        override=None if order.override is None else f"{actor}: {order.override}",
        effective_at=order.effective_at,
    )
    pointer.keep_beside(change, current, canary=True)
    return pointer.write(session, current, change, version)


def roll_back(session: Session, name: str, order: RollbackRequest, actor: str) -> Released:
    """Move the pointer to the version that was live before, in the caller's transaction. Raises as `Releases.roll_back`."""
    pipeline = repository.pipeline_id(session, name)
    current = repository.locked_pointer(session, pipeline)
    if current is not None and _rolled_back_already(session, current, order.expected_generation):
        return pointer.unchanged(session, current)
    pointer.expect(session, current, order.expected_generation)
    target = rollback_target(repository.all_changes(session, pipeline))
    if current is None or target is None:
        raise NothingToRollBack("No other version was live before; there is nothing to roll back to.")
    version = session.get_one(ModelVersion, target)
    verdict = repository.promoting_verdict(session, version, None) if version.state == VersionState.VALIDATED else None
    change = DeploymentChange(
        pipeline_id=pipeline,
        generation=current.generation + 1,
        action=DeploymentAction.ROLLBACK,
        version_id=version.id,
        previous_version_id=current.live_version_id,
        actor=actor,
        reason=order.reason,
        validation_id=verdict.id if verdict else None,
        # It was live before; what let it live then may be gone, and an emergency waits for no verdict, nor is it refused for one.
        override=f"{actor}: roll back: {order.reason}",
        effective_at=order.effective_at,
    )
    pointer.keep_beside(change, current, canary=False)
    return pointer.write(session, current, change, version)


def _took_effect(current: Deployment | None, version: uuid.UUID, expected: int | None) -> bool:
    """Whether the version is live already, and the pointer is where the caller saw it or one change on: his own, repeated."""
    if current is None or current.live_version_id != version:
        return False
    return pointer.repeated(current, expected)


def _rolled_back_already(session: Session, current: Deployment, expected: int | None) -> bool:
    """Whether the one change since the caller looked is the roll back he asks for: his own, repeated."""
    if expected != current.generation - 1:
        return False
    last = session.get(DeploymentChange, (current.pipeline_id, current.generation))
    return last is not None and last.action == DeploymentAction.ROLLBACK


def _check_validated(version: ModelVersion, verdict: Validation | None, order: PromoteRequest) -> None:
    """The newest verdict counts: one that promoted the version before it was rejected or held does not."""
    if verdict is None and order.validation is not None:
        raise Invalid(
            "The validation named does not promote this version.",
            errors=[{"loc": ["body", "validation"], "msg": f"is no verdict that promotes version {version.number}"}],
        )
    if verdict is None or version.state != VersionState.VALIDATED:
        raise NotValidated(pointer.why_not(version))


def _dry(session: Session, change: Callable[[Session], Released]) -> Released:
    """What the change would be, without it."""
    released = change(session)
    session.rollback()
    return released
