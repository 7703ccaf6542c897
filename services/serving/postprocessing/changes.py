"""The use case: other stages, and items removed or reinstated, while the model serves. One row a change with who and why; nothing
is ever overwritten.
"""

from dataclasses import dataclass

from sqlmodel import Session

from services.serving import repository as registry
from services.serving.config import ServingSettings
from services.serving.errors import StagesMoved
from services.serving.models.acquire import finished
from services.serving.models.follower import Follower
from services.serving.postprocessing import repository
from services.serving.postprocessing.columns import text_of
from services.serving.postprocessing.current import Configurations, Reached
from services.serving.postprocessing.removals import KEY
from services.serving.postprocessing.schemas import (
    MOST_REMOVED,
    RemovalRequest,
    RemovalResponse,
    StagesRequest,
    StagesResponse,
)
from services.serving.transactions import Transactions
from shared.errors import Conflict, FieldError, Invalid, Unavailable
from shared.registry.tables import RemovalChange, StagesChange
from shared.spec import PipelineSpec, VectorFeature
from shared.spec.postprocessing import problems


@dataclass(frozen=True, slots=True)
class Changed:
    """A story after a change."""

    at: int
    """Its newest number."""
    count: int
    """What changed; 0 when all was as asked already."""


class PostprocessingChanges:
    """Orders stages, removes and reinstates."""

    def __init__(
        self,
        transactions: Transactions,
        configurations: Configurations,
        follower: Follower,
        settings: ServingSettings,
    ) -> None:
        self._transactions = transactions
        self._configurations = configurations
        self._follower = follower
        self._wait_s = settings.apply_wait_s

    async def order(self, name: str, order: StagesRequest, actor: str) -> StagesResponse:
        """Put other stages in force.

        Raises:
            NotFound: no such pipeline.
            Invalid: a stage does not fit the pipeline's current spec.
            StagesMoved: the newest order is not the one the caller saw.
            Unavailable: the registry is away.
        """
        done = await self._transactions.run(lambda session: order_stages(session, name, order, actor))
        applied = await self._applied(name, lambda now: now.newest >= done.at)
        return StagesResponse(model=name, number=done.at, changed=bool(done.count), applied=applied)

    async def remove(self, name: str, order: RemovalRequest, actor: str, *, removes: bool) -> RemovalResponse:
        """Put items on the removal list, or take them off it. Repeated, it changes nothing.

        Raises:
            NotFound: no such pipeline.
            Invalid: the field is none of the pipeline's.
            Conflict: the list would grow too long.
            Unavailable: the registry is away.
        """
        done = await self._transactions.run(
            lambda session: change_removals(session, name, order, actor, removes=removes)
        )
        applied = await self._applied(name, lambda now: now.removals.sequence >= done.at)
        return RemovalResponse(model=name, sequence=done.at, changed=done.count, applied=applied)

    async def _applied(self, name: str, reached: Reached) -> bool:
        self._follower.wake()
        try:
            await finished(self._configurations.when(name, reached), self._wait_s, "The change")
        except Unavailable:
            return False
        return True


def order_stages(session: Session, name: str, order: StagesRequest, actor: str) -> Changed:
    """Append an order, in the caller's transaction. Raises as `PostprocessingChanges.order`."""
    pipeline = registry.pipeline_id(session, name)
    repository.lock(session, pipeline)
    newest = repository.newest_stages(session, pipeline)
    number = newest.number if newest is not None else 0
    wanted = None if order.stages is None else [stage.model_dump(mode="json") for stage in order.stages]
    if newest is not None and newest.stages == wanted and order.expected_number in (None, number, number - 1):
        return Changed(number, 0)
    if order.expected_number not in (None, number):
        raise StagesMoved(
            f"The newest order about stages has number {number}, not {order.expected_number}. Look again and decide anew.",
            errors=[{"loc": ["body", "expected_number"], "msg": f"the number is {number}"}],
        )
    _check(order, repository.current_spec(session, pipeline))
    repository.append(
        session,
        StagesChange(pipeline_id=pipeline, number=number + 1, stages=wanted, actor=actor, reason=order.reason),
    )
    return Changed(number + 1, 1)


def _check(order: StagesRequest, spec: PipelineSpec) -> None:
    found = problems(order.stages or [], known=spec.postprocessed_fields, task=spec.task)
    errors: list[FieldError] = [{"loc": ["body", "stages", *place], "msg": message} for place, message in found]
    if errors:
        raise Invalid(f"{'.'.join(map(str, errors[0]['loc'][1:]))}: {errors[0]['msg']}.", errors=errors)


def change_removals(session: Session, name: str, order: RemovalRequest, actor: str, *, removes: bool) -> Changed:
    """Append a change of the removal list, in the caller's transaction. Raises as `PostprocessingChanges.remove`."""
    pipeline = registry.pipeline_id(session, name)
    field = _field(order.field, repository.current_spec(session, pipeline), removes=removes)
    repository.lock(session, pipeline)
    now = repository.removals(session, pipeline)
    listed = now.items.get(field, frozenset())
    asked = dict.fromkeys(filter(None, map(text_of, order.items)))
    items = [item for item in asked if (item in listed) != removes]
    if not items:
        return Changed(now.sequence, 0)
    if removes and now.count + len(items) > MOST_REMOVED:
        raise Conflict(
            f"The removal list would hold {now.count + len(items)} items, of at most {MOST_REMOVED}. Reinstate what is served no "
            "more, or remove by a field that many items share."
        )
    change = RemovalChange(
        pipeline_id=pipeline,
        sequence=now.sequence + 1,
        removes=removes,
        field=field,
        items=items,
        actor=actor,
        reason=order.reason,
    )
    repository.append(session, change)
    return Changed(change.sequence, len(items))


def _field(name: str | None, spec: PipelineSpec, *, removes: bool) -> str:
    """The field as the list has it."""
    if name is None or name == spec.key:
        return KEY
    fields = spec.postprocessed_fields
    if removes and (name not in fields or isinstance(fields[name], VectorFeature)):
        what = "is a vector, which has no items" if name in fields else "is no field of this pipeline's instances"
        raise Invalid(f"field: {name} {what}.", errors=[{"loc": ["body", "field"], "msg": f"{name} {what}"}])
    return name
