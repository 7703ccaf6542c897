"""Serving's SQL about post-processing: reading what is new, and appending to the two stories."""

import uuid
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlmodel import Session, col

from services.serving.models.catalogue import Pipeline, StagesOrder
from services.serving.postprocessing.removals import Change, Removals
from shared.registry import tables
from shared.registry.tables import RemovalChange, SpecVersion, StagesChange
from shared.spec import PipelineSpec, parse

# For the catalogue


class Newest:
    """How far both stories of all pipelines are, as one reading sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._numbers = _newest(session, _NUMBERS)
        self._sequences = _newest(session, _SEQUENCES)

    def stages_order(self, pipeline: uuid.UUID, known: Pipeline | None) -> StagesOrder | None:
        """The newest order, read when it is not the known one."""
        number = self._numbers.get(pipeline)
        if number is None:
            return None
        if known is not None and known.stages_order is not None and known.stages_order.number == number:
            return known.stages_order
        return StagesOrder(number, self._session.get_one(StagesChange, (pipeline, number)).stages)

    def removals(self, pipeline: uuid.UUID, known: Pipeline | None) -> Removals:
        """The list, of which only new changes are read."""
        before = Removals() if known is None else known.removals
        sequence = self._sequences.get(pipeline, 0)
        if sequence >= before.sequence:
            return before if sequence == before.sequence else before.after(_changes(self._session, pipeline, before))
        # The registry was restored to an earlier moment. What it has forgotten stays removed here until it is reinstated there.
        whole = Removals().after(_changes(self._session, pipeline, Removals()))
        names = {*before.items, *whole.items}
        both = {name: before.items.get(name, frozenset()) | whole.items.get(name, frozenset()) for name in names}
        return Removals(sequence, both)


def _newest(session: Session, statement: "Select[Any]") -> dict[uuid.UUID, int]:
    return {row[0]: row[1] for row in session.execute(statement)}


def _select_newest(pipeline: Any, number: Any) -> "Select[Any]":
    return select(pipeline, func.max(number)).group_by(pipeline)


_NUMBERS = _select_newest(StagesChange.pipeline_id, StagesChange.number)
_SEQUENCES = _select_newest(RemovalChange.pipeline_id, RemovalChange.sequence)


def _changes(session: Session, pipeline: uuid.UUID, known: Removals) -> list[Change]:
    query = (
        select(RemovalChange)
        .where(col(RemovalChange.pipeline_id) == pipeline, col(RemovalChange.sequence) > known.sequence)
        .order_by(col(RemovalChange.sequence))
    )
    return [Change(row.sequence, row.removes, row.field, row.items) for row in session.scalars(query)]


# For changes


def lock(session: Session, pipeline: uuid.UUID) -> None:
    """Hold both stories of a pipeline against other changes until the transaction ends."""
    session.execute(
        text("select pg_advisory_xact_lock(hashtextextended('postprocessing ' || :pipeline, 0))"),
        {"pipeline": str(pipeline)},
    )


def current_spec(session: Session, pipeline: uuid.UUID) -> PipelineSpec:
    """The pipeline's current spec."""
    query = (
        select(col(SpecVersion.spec))
        .join(tables.Pipeline, col(tables.Pipeline.id) == col(SpecVersion.pipeline_id))
        .where(col(tables.Pipeline.id) == pipeline, col(SpecVersion.number) == col(tables.Pipeline.spec_version))
    )
    return parse(session.execute(query).scalar_one())


def newest_stages(session: Session, pipeline: uuid.UUID) -> StagesChange | None:
    """The last order about stages."""
    return session.scalar(stages_query(pipeline).order_by(col(StagesChange.number).desc()).limit(1))


def removals(session: Session, pipeline: uuid.UUID) -> Removals:
    """The whole list."""
    return Removals().after(_changes(session, pipeline, Removals()))


def append(session: Session, row: StagesChange | RemovalChange) -> None:
    """Write one row of a story."""
    session.add(row)
    session.flush()


def stages_query(pipeline: uuid.UUID) -> "Select[StagesChange]":
    """The story of the stages."""
    return select(StagesChange).where(col(StagesChange.pipeline_id) == pipeline)


def removals_query(pipeline: uuid.UUID) -> "Select[RemovalChange]":
    """The story of the removal list."""
    return select(RemovalChange).where(col(RemovalChange.pipeline_id) == pipeline)
