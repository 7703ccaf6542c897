"""All keys seen, each with its latest instance, as the registry has them. Apart, since only the worker needs Arrow for SQL."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pyarrow as pa
from psycopg import sql
from sqlmodel import Session

from shared.copy_rows import feature_columns, feature_values, read_copy
from shared.spec import PipelineSpec


def keys_seen(
    session: Session,
    pipeline_id: uuid.UUID,
    spec: PipelineSpec,
    schema: pa.Schema,
    *,
    since: timedelta | None,
    query_s: int,
    check: Callable[[], None],
) -> Iterator[pa.RecordBatch]:
    """The latest instance of every key that an event or a logged prediction (none that named its version) had.

    Args:
        schema: the columns that come: key, time and the spec's features.
        since: only event times of the last so long.
        query_s: how long the query may take.
        check: called between blocks; raises to stop.
    """
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    connection.execute("select set_config('statement_timeout', %s, true)", [f"{query_s * 1000}"])
    connection.execute("set local work_mem = '128MB'")
    query = _KEYS_SEEN.format(
        features=feature_values("document", feature_columns(spec)),
        since=sql.SQL("" if since is None else "and event_time >= now() - %(since)s"),
    )
    values = {"pipeline": pipeline_id, "since": since}
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("copy ({}) to stdout (format csv)").format(query), values) as copy,
    ):
        for batch in read_copy(iter(copy), schema):
            check()
            yield batch


_KEYS_SEEN = sql.SQL("""
    select key, (extract(epoch from event_time) * 1000000)::int8{features}
    from (
        select distinct on (key collate "C") key, event_time, document
        from (
            select key, event_time, available_at, payload as document
            from events where pipeline_id = %(pipeline)s {since}
            union all
            select key, event_time, available_at, instance
            from predictions where pipeline_id = %(pipeline)s and not pinned {since}
        ) as seen
        order by key collate "C", event_time desc, available_at desc
    ) as latest
""")
