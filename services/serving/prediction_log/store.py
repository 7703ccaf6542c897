"""Storing the prediction log: records go to PostgreSQL as they lie in the log, and it takes them apart."""

import struct
from collections.abc import Sequence
from datetime import datetime

import psycopg

from services.serving.prediction_log.record import Logged
from services.serving.prediction_log.shipper import RecordRefused
from shared.registry.connection import LOCK_FOR_INGEST, connect_arguments

# As text (`json`): of `jsonb` PostgreSQL would make its own form three times over, of the record, of its rows and of each row.
_SHIPPED = """
create temporary table if not exists shipped (requested_at timestamptz, record json) on commit delete rows
"""
_INSERT = """
insert into prediction_requests (
    request_id, requested_at, pipeline_id, version_id, version_number, generation, pinned, role, keys, event_times, available_ats,
    instances, scores, final_scores, stages_number, stages_spec, removals, latency_us, api_key_id, caller_request_id)
select
    r.request, s.requested_at, r.pipeline, r.version, r.number, r.generation, r.pinned,
    coalesce(r.role, case when r.pinned then 'pinned' else 'live' end), r.keys,
    array(select timestamptz 'epoch' + t * interval '1 microsecond' from unnest(r.times) with ordinality as u(t, n) order by n),
    array(select timestamptz 'epoch' + t * interval '1 microsecond' from unnest(
        coalesce(r.available, array_fill(r.received, array[cardinality(r.keys)]))) with ordinality as u(t, n) order by n),
    (select jsonb_agg(jsonb_strip_nulls(e::jsonb) - r.not_logged order by n)
     from json_array_elements(coalesce(r.rows, r.sent -> 'instances')) with ordinality as u(e, n)),
    r.scores, r.final_scores, r.stages_number, r.stages_spec, r.removals, r.latency_us, r.api_key, r.caller_request
from shipped s, json_to_record(s.record) as r(
    request uuid, pipeline uuid, version uuid, number int, generation int, pinned boolean, role text, keys text[], times bigint[],
    received bigint,
    available bigint[], rows json, sent json, not_logged text[], scores double precision[], final_scores double precision[],
    stages_number int, stages_spec int, removals bigint, latency_us int, api_key text, caller_request text)
on conflict do nothing
"""

# PostgreSQL's binary COPY: a header, then for each row its field count and each field's length and bytes.
_BEGIN = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
_ROW = struct.Struct(">hiqi")
_END = struct.pack(">h", -1)
_EPOCH_2000_US = 946_684_800_000_000

_REFUSALS = ("22", "23", "54")
"""Classes of SQLSTATE that depend on the record alone: data, integrity, and a program limit such as JSON of 256 MiB."""


class PredictionStore:
    """Stores logged predictions for good, each once however often it is given. Plain psycopg: its process starts fast."""

    def __init__(self, database_url: str) -> None:
        """Prepare; the first use connects.

        Args:
            database_url: as libpq takes it.
        """
        self._database_url = database_url
        self._connection: psycopg.Connection | None = None
        self._months: set[tuple[int, int]] = set()

    def close(self) -> None:
        """Let go of the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __call__(self, records: Sequence[Logged]) -> None:
        """One transaction: COPY into a temporary table, then insert what is not there yet.

        Raises:
            RecordRefused: the database will not take at least one of them.
            psycopg.Error: it is away, or failed; nothing was stored.
        """
        if self._connection is None:
            self._connection = psycopg.connect(self._database_url, **connect_arguments("relevo-serving-shipper"))
        try:
            self._ensure_partitions(self._connection, [record.requested_at for record in records])
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.execute(_SHIPPED)
                with cursor.copy("copy shipped from stdin (format binary)") as copy:
                    copy.write(_copied(records))
                # Not earlier: no timeout of PostgreSQL ends a COPY whose sender stalls, and builds wait for the lock.
                for statement in LOCK_FOR_INGEST:
                    cursor.execute(statement)
                cursor.execute(_INSERT)
        except BaseException as error:
            if isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in _REFUSALS:
                raise RecordRefused(f"PostgreSQL refuses it: {type(error).__name__}") from error
            self.close()
            raise

    def _ensure_partitions(self, connection: psycopg.Connection, moments: Sequence[datetime]) -> None:
        for month, moment in {(moment.year, moment.month): moment for moment in moments}.items():
            if month not in self._months:
                with connection.transaction():
                    connection.execute("select ensure_prediction_partition(%s)", [moment])
                self._months.add(month)


def _copied(records: Sequence[Logged]) -> bytes:
    parts = [_BEGIN]
    for record in records:
        at_us = record.requested_ms * 1000 - _EPOCH_2000_US
        parts += (_ROW.pack(2, 8, at_us, len(record.document)), record.document)
    parts.append(_END)
    return b"".join(parts)
