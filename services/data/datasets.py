"""Asking for a dataset and reaching its files."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

from sqlmodel import Session

from services.data import repository
from services.data.manifest import FILE_OF, Split
from shared.artifacts import ArtifactStore
from shared.config import local_cache_dir
from shared.errors import Conflict, Invalid
from shared.instances import FIRST
from shared.manifest import DatasetFile, read_files
from shared.registry.states import DatasetState
from shared.registry.tables import Dataset


def request_dataset(session: Session, pipeline: str, as_of: datetime | None, cycle_id: uuid.UUID | None) -> Dataset:
    """Write a queued dataset and its nudge in the caller's transaction.

    Args:
        as_of: the moment whose knowledge it shall hold; None: the database's now.

    Raises:
        NotFound: no such pipeline.
        Invalid: `as_of` lies in the future, or before 1900.
    """
    row = repository.get_pipeline(session, pipeline, lock=True)
    now = repository.database_now(session)
    if as_of is not None and not FIRST <= as_of <= now:
        reason = "must not lie in the future" if as_of > now else "must not lie before the year 1900"
        raise Invalid(f"as_of {reason}.", errors=[{"loc": ["body", "as_of"], "msg": reason}])
    return repository.add_dataset(session, row, (as_of or now).astimezone(UTC), cycle_id)


def split_file(store: ArtifactStore, dataset: Dataset, split: Split) -> tuple[DatasetFile, Path]:
    """A split's file as the manifest has it, and a verified local copy of the file.

    Raises:
        Conflict: the dataset is not ready.
    """
    if dataset.state != DatasetState.READY or dataset.digest is None:
        raise Conflict(f"The dataset is {dataset.state}; its files can be read once it is ready.")
    file = read_files(store, dataset.digest)[FILE_OF[split]]
    return file, store.fetch(file.sha256, local_cache_dir("datasets"))
