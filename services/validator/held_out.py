"""The test rows that two models may be compared on: of the candidate's dataset, and newer than what either was trained on."""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.validator.intervals import utc_days
from shared.artifacts import ArtifactStore, Digest
from shared.errors import ArtifactCorrupt, ArtifactMissing
from shared.feeds import labels_of, times_us
from shared.instances import epoch_us
from shared.manifest import TEST_FILE, read_files


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """Labelled rows in memory."""

    table: pa.Table
    labels: NDArray[np.float64]
    days: NDArray[np.int64]
    """UTC day number of each row's event time."""
    left_out: int
    """Test rows that were not used, because they are within a training window."""

    @property
    def count(self) -> int:
        return int(self.labels.size)


def read_held_out(store: ArtifactStore, dataset: Digest, *, trained_until: datetime) -> HeldOutRows:
    """Read a dataset's test split, verified by its digest, and keep the rows at or after `trained_until`.

    Args:
        dataset: digest of the manifest.
        trained_until: the later of both models' `train_end`: neither saw a row at or after it.

    Raises:
        ArtifactMissing, ArtifactCorrupt: the files are not what the manifest says.
        Invalid: a column that every dataset has is missing or malformed.
        Unavailable: the storage is away.
    """
    file = read_files(store, dataset).get(TEST_FILE)
    if file is None:
        raise ArtifactMissing(f"The dataset {dataset} has no {TEST_FILE}.")
    with tempfile.TemporaryDirectory(prefix="relevo-validation-") as folder:
        path = store.fetch(file.sha256, Path(folder))
        try:
            table = pq.read_table(path)
        except pa.ArrowException as error:
            raise ArtifactCorrupt(f"{TEST_FILE} of the dataset {dataset} is not readable Parquet: {error}") from error
    return newer_rows(table, trained_until)


def newer_rows(table: pa.Table, trained_until: datetime) -> HeldOutRows:
    """The rows at or after a moment, with their labels and days."""
    times = times_us(table)
    newer = times >= epoch_us(trained_until)
    kept = table.filter(pa.array(newer))
    return HeldOutRows(kept, labels_of(kept), utc_days(times[newer]), left_out=int((~newer).sum()))
