"""The one reader of events, predictions and labels for datasets: rows up to the pinned watermarks, as Parquet extracts.

PostgreSQL sends CSV by COPY and Arrow parses it block by block, so memory stays bounded and no Python object is made per row.
Events and predictions are found by their time, labels by the keys of these: a build costs what its window holds, however long
the history. Where events live (rows today, sealed segments in an object store later) is known here alone.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql
from sqlmodel import Session

from services.data.resolution import resolve_labels
from services.data.split import Windows
from shared.copy_rows import arrow_type, feature_columns, feature_values, read_copy
from shared.labels import EFFECTIVE_ORDER
from shared.registry.session import Sessions
from shared.spec import PipelineSpec

LABELS_PER_ROW = 2
"""With no more labels than so many for each row of the window, reading them all takes less time than finding those of its keys."""

EXAMPLE_COLUMNS = {"key": pa.string(), "time": pa.int64()}
LABEL_COLUMNS = {"key": pa.string(), "label": pa.float64()}


@dataclass(frozen=True)
class Cut:
    """What a dataset may see: rows up to the watermarks, known at `as_of`, with event times inside the windows."""

    pipeline_id: uuid.UUID
    as_of: datetime
    watermarks: Mapping[str, int]
    """Highest sequence of `events`, `labels` and `predictions`."""
    windows: Windows


@dataclass(frozen=True)
class Extracts:
    """The three files a dataset is joined from.

    Events and predictions: key, time (epoch microseconds) and the raw features, one row per key. Labels: key and label, one
    row per key: all keys of the other two that have a label, and perhaps others.
    """

    events: Path
    predictions: Path
    labels: Path


def read_extracts(
    sessions: Sessions, cut: Cut, spec: PipelineSpec, folder: Path, *, query_s: int, check: Callable[[], None]
) -> Extracts:
    """Write the three extracts.

    Args:
        query_s: how long one query may take.
        check: called between blocks; raises to stop.
    """
    features = feature_columns(spec)
    columns = EXAMPLE_COLUMNS | {name: arrow_type(feature) for name, feature in features.items()}
    values = {
        "pipeline": cut.pipeline_id,
        "as_of": cut.as_of,
        "start": cut.windows.train.start,
        "end": min(cut.windows.test.end, cut.as_of),
        **cut.watermarks,
    }
    marks = cut.watermarks
    resolve_labels(sessions, cut.pipeline_id, labels=marks["labels"], predictions=marks["predictions"], query_s=query_s)
    extracts = Extracts(*(folder / f"{name}.parquet" for name in ("events", "predictions", "labels")))
    with sessions.begin() as session:
        reader = _Reader(_driver(session), values, check)
        reader.prepare(query_s)
        rows = reader.extract(_EVENTS.format(features=feature_values("payload", features)), columns, extracts.events)
        predictions = _PREDICTIONS.format(features=feature_values("instance", features))
        rows += reader.extract(predictions, columns, extracts.predictions)
        if reader.more_labels_than(rows * LABELS_PER_ROW):
            reader.find_keys()
            labels = _LABELS.format(of_key=sql.SQL(_WINDOW.format("l")), of_prediction=sql.SQL(_WINDOW.format("r")))
        else:
            labels = _LABELS.format(of_key=sql.SQL(""), of_prediction=sql.SQL(""))
        reader.extract(labels, LABEL_COLUMNS, extracts.labels)
    return extracts


def _driver(session: Session) -> psycopg.Connection[Any]:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


@dataclass(frozen=True)
class _Reader:
    connection: psycopg.Connection[Any]
    values: Mapping[str, Any]
    check: Callable[[], None]

    def prepare(self, query_s: int) -> None:
        """Set up the transaction for long reads."""
        self.connection.execute("select set_config('statement_timeout', %s, true)", [f"{query_s * 1000}"])
        self.connection.execute("set local work_mem = '128MB'")
        # As for what is cached, which the newest rows are: else reading all labels looks cheaper than finding a few by index.
        self.connection.execute("set local seq_page_cost = 0.1; set local random_page_cost = 0.1")

    def more_labels_than(self, count: int) -> bool:
        """Whether the pipeline has more labels than this; counts no further."""
        query = "select count(*) from (select from labels where pipeline_id = %(pipeline)s limit %(count)s + 1) as l"
        found = self.connection.execute(query, {**self.values, "count": count}).fetchone()
        return found is not None and found[0] > count

    def find_keys(self) -> None:
        """Keep the keys of the window until the transaction ends, counted, so that their labels are found the shortest way."""
        self.connection.execute("create temporary table window_keys (key text not null) on commit drop")
        self.connection.execute(_KEYS, self.values)
        self.connection.execute("analyze window_keys")

    def extract(self, query: sql.Composable, columns: Mapping[str, pa.DataType], path: Path) -> int:
        """Write the rows of a query to a Parquet file; how many."""
        rows = 0
        schema = pa.schema(list(columns.items()))
        statement = sql.SQL("copy ({}) to stdout (format csv)").format(query)
        with (
            pq.ParquetWriter(path, schema, compression="lz4") as writer,
            self.connection.cursor() as cursor,
            cursor.copy(statement, self.values) as copy,
        ):
            for batch in read_copy(iter(copy), schema):
                self.check()
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows


_MICROSECONDS = "(extract(epoch from event_time) * 1000000)::int8"

_EVENTS_OF_WINDOW = """
    from events
    where pipeline_id = %(pipeline)s and seq <= %(events)s and available_at <= %(as_of)s
      and event_time >= %(start)s and event_time < %(end)s
"""
# The request's own span repeats what holds for its rows: that is what the index has.
_PREDICTIONS_OF_WINDOW = """
    where pipeline_id = %(pipeline)s and seq <= %(predictions)s and not pinned and available_at <= %(as_of)s
      and event_time >= %(start)s and event_time < %(end)s
      and request_last >= %(start)s and request_first < %(end)s
"""

_EVENTS = sql.SQL(f"select key, {_MICROSECONDS}{{features}} {_EVENTS_OF_WINDOW}")

# The earliest live prediction of a key: what was really known when the model was asked for the first time.
_PREDICTIONS = sql.SQL(f"""
    select key, {_MICROSECONDS}{{features}}
    from (
        select distinct on (key collate "C") key, event_time, instance
        from predictions {_PREDICTIONS_OF_WINDOW}
        order by key collate "C", available_at, request_id, row_index
    ) as earliest
""")  # noqa: S608

# As the view has them, without unpacking what was asked.
_KEYS = sql.SQL(f"""
    insert into window_keys
    select key {_EVENTS_OF_WINDOW}
    union
    select key
    from (
        select r.pipeline_id, r.seq, r.pinned, u.key, u.event_time, u.available_at,
               first_moment(r.event_times) as request_first, last_moment(r.event_times) as request_last
        from prediction_requests r
        cross join lateral unnest(r.keys, r.event_times, r.available_ats) as u(key, event_time, available_at)
    ) as predictions
    {_PREDICTIONS_OF_WINDOW}
""")  # noqa: S608

_WINDOW = "join window_keys w on w.key = {}.key"
# A label may name a prediction instead of a key: the log knows which example that was, pinned predictions included.
_LABELS = sql.SQL(f"""
    select key, label
    from (
        select distinct on (key) *
        from (
            select l.key collate "C" as key, l.label, l.source_rank, l.label_time, l.content_digest collate "C" as content_digest
            from labels l {{of_key}}
            where l.pipeline_id = %(pipeline)s and l.key is not null and l.seq <= %(labels)s and l.available_at <= %(as_of)s
            union all
            select r.key, l.label, l.source_rank, l.label_time, l.content_digest
            from resolved_labels r {{of_prediction}}
            join labels l on l.seq = r.label_seq
            where r.pipeline_id = %(pipeline)s and r.prediction_seq <= %(predictions)s
              and l.seq <= %(labels)s and l.available_at <= %(as_of)s
        ) as known
        order by key, {EFFECTIVE_ORDER}
    ) as effective
""")  # noqa: S608
