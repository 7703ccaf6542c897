"""What the comparisons with a shadow say, over the newest of them."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

MOST_REQUESTS = 20_000
"""The newest so many are summed up, which takes about a second at the most."""

_SUMMARY = text("""
    with newest as (
        select * from shadow_comparisons
        where pipeline_id = :pipeline and shadow_version_id = :version
          and (cast(:live as uuid) is null or live_version_id = :live)
        order by id desc limit :most
    ),
    scored as (
        select s.live, s.shadow, s.shadow - s.live as delta
        from newest n cross join lateral unnest(n.live_scores, n.shadow_scores) as s(live, shadow)
    ),
    timed as (
        select count(*) as requests, min(requested_at) as first_at, max(requested_at) as last_at,
               avg(live_run_us) as live_mean, avg(shadow_run_us) as shadow_mean,
               percentile_cont(0.5) within group (order by shadow_run_us - live_run_us) as delta_p50
        from newest
    ),
    differing as (
        select count(*) as rows, avg(delta) as mean, avg(abs(delta)) as mean_abs, max(abs(delta)) as max_abs,
               percentile_cont(array[0.5, 0.9, 0.99]) within group (order by abs(delta)) as quantiles,
               avg(((live >= :threshold) <> (shadow >= :threshold))::int) as disagreement
        from scored
    )
    select * from timed cross join differing
""")


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores and times of a shadow and the live version it was compared with."""

    requests: int
    rows: int
    first_at: datetime | None
    last_at: datetime | None
    mean_delta: float | None
    """Of shadow minus live."""
    mean_abs_delta: float | None
    p50_abs_delta: float | None
    p90_abs_delta: float | None
    p99_abs_delta: float | None
    max_abs_delta: float | None
    disagreement: float | None
    """Share of the rows of which one score reaches the threshold and the other does not."""
    live_run_us: float | None
    shadow_run_us: float | None
    p50_run_delta_us: float | None
    """Of shadow minus live, request by request."""


def summarise(
    session: Session, pipeline: uuid.UUID, *, version: uuid.UUID, live: uuid.UUID | None, threshold: float | None
) -> Summary:
    """Sum up.

    Args:
        version: the shadow.
        live: only comparisons with this live version; None: with all.
        threshold: from where on a score means yes.
    """
    values = {"pipeline": pipeline, "version": version, "live": live, "threshold": threshold, "most": MOST_REQUESTS}
    row: Any = session.execute(_SUMMARY, values).one()
    p50, p90, p99 = row.quantiles or (None, None, None)

    def plain(value: Any) -> float | None:
        return None if value is None else float(value)

    return Summary(
        requests=row.requests,
        rows=row.rows,
        first_at=row.first_at,
        last_at=row.last_at,
        mean_delta=row.mean,
        mean_abs_delta=row.mean_abs,
        p50_abs_delta=p50,
        p90_abs_delta=p90,
        p99_abs_delta=p99,
        max_abs_delta=row.max_abs,
        disagreement=plain(row.disagreement),
        live_run_us=plain(row.live_mean),
        shadow_run_us=plain(row.shadow_mean),
        p50_run_delta_us=row.delta_p50,
    )
