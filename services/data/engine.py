"""The dataframe engine: joins extracts to labelled examples in order of time. The only module that knows Daft.

Daft runs the same plan on this machine or, started with DAFT_RUNNER=ray, on a Ray cluster (docs/decisions/0006).
"""

import os
from collections.abc import Iterator, Sequence

# Read once, at import: no telemetry.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import daft
import pyarrow as pa
from daft import col

from services.data.source import Extracts


def labelled_examples(
    extracts: Extracts, *, needed: Sequence[str], missing_label: float | None
) -> Iterator[pa.RecordBatch]:
    """One row per key, sorted by (time, key): features as served, where the example was predicted live, else as ingested.

    Args:
        extracts: Parquet files as `services.data.source` writes them.
        needed: features without which a row is no example.
        missing_label: the label of an example that has none; None drops it.

    Yields:
        Batches with the extracts' columns and `label` (double).
    """
    events, predictions, labels = (
        daft.read_parquet(str(path)) for path in (extracts.events, extracts.predictions, extracts.labels)
    )
    examples = predictions.concat(events.join(predictions.select("key"), on="key", how="anti"))
    for name in needed:
        examples = examples.where(col(name).not_null())
    if missing_label is None:
        labelled = examples.join(labels, on="key", how="inner")
    else:
        labelled = examples.join(labels, on="key", how="left")
        labelled = labelled.with_column("label", col("label").fill_null(missing_label))
    yield from labelled.sort(["time", "key"]).to_arrow_iter()


def version() -> str:
    """The engine's version, for manifests."""
    return str(daft.__version__)
