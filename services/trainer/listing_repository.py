"""SQL of what the routes list and show: pages, and the numbers that people know rows by. Apart because only the routes need it:
pages are those of the web kit, which the workers do without."""

import uuid
from collections.abc import Sequence

from sqlalchemy import Row, Select, select
from sqlmodel import Session, col

from shared.errors import NotFound
from shared.registry.tables import Cycle, Dataset, ModelVersion, Run
from shared.web.pagination import PageRequest, newest_first


def numbers_of(session: Session, rows: Sequence[Run | Cycle]) -> dict[uuid.UUID, tuple[int | None, int | None]]:
    """For each run or cycle, by its id: the numbers of its dataset and of its version."""
    datasets = {row.dataset_id for row in rows if row.dataset_id}
    dataset_numbers: dict[uuid.UUID, int] = {
        row.id: row.number
        for row in session.execute(select(col(Dataset.id), col(Dataset.number)).where(col(Dataset.id).in_(datasets)))
    }
    runs = {row.id if isinstance(row, Run) else row.run_id for row in rows}
    version_numbers: dict[uuid.UUID, int] = {
        row.run_id: row.number
        for row in session.execute(
            select(col(ModelVersion.run_id), col(ModelVersion.number)).where(
                col(ModelVersion.run_id).in_({run for run in runs if run})
            )
        )
    }
    found: dict[uuid.UUID, tuple[int | None, int | None]] = {}
    for row in rows:
        run = row.id if isinstance(row, Run) else row.run_id
        found[row.id] = (
            dataset_numbers.get(row.dataset_id) if row.dataset_id else None,
            version_numbers.get(run) if run else None,
        )
    return found


def cycles_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[uuid.UUID]) -> Sequence[Cycle]:
    """Cycles for one page, and one more when there are more."""
    query = select(Cycle).where(col(Cycle.pipeline_id) == pipeline_id)
    return session.scalars(newest_first(query, Cycle.id, page)).all()


def runs_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[uuid.UUID]) -> Sequence[Run]:
    """Runs for one page, and one more when there are more."""
    query = select(Run).where(col(Run.pipeline_id) == pipeline_id)
    return session.scalars(newest_first(query, Run.id, page)).all()


def _versions(pipeline_id: uuid.UUID) -> Select[ModelVersion, int]:
    return (
        select(ModelVersion, col(Dataset.number))
        .join(Dataset, col(Dataset.id) == col(ModelVersion.dataset_id))
        .where(col(ModelVersion.pipeline_id) == pipeline_id)
    )


def versions_page(session: Session, pipeline_id: uuid.UUID, page: PageRequest[int]) -> Sequence[Row[ModelVersion, int]]:
    """Versions with the numbers of their datasets for one page, and one more when there are more."""
    return session.execute(newest_first(_versions(pipeline_id), ModelVersion.number, page)).all()


def version_numbered(session: Session, pipeline_id: uuid.UUID, number: int) -> Row[ModelVersion, int]:
    """One version with the number of its dataset.

    Raises:
        NotFound: the pipeline has no version of that number.
    """
    row = session.execute(_versions(pipeline_id).where(col(ModelVersion.number) == number)).one_or_none()
    if row is None:
        raise NotFound(f"This pipeline has no version {number}.")
    return row
