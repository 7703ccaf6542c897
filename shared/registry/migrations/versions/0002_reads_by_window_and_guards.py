"""What a build reads is found by index, quarantine keeps a row once, and the guards leave no way around.

Revision: 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Immutable, so that an index can hold them: a request is found by the event times of its rows.
MOMENT = """
    create function {name}(moments timestamptz[]) returns timestamptz language sql immutable strict parallel safe
    return (select {aggregate}(moment) from unnest(moments) as m(moment))
"""
VIEW = """
    create view predictions as
    select r.pipeline_id, r.request_id, (u.position - 1)::int as row_index, r.seq, r.requested_at, r.version_id,
           r.version_number, r.generation, r.pinned, u.key, u.event_time, u.available_at, u.score, u.instance{more}
    from prediction_requests r
    cross join lateral rows from (unnest(r.keys), unnest(r.event_times), unnest(r.available_ats), unnest(r.scores),
                                  jsonb_array_elements(r.instances))
        with ordinality as u(key, event_time, available_at, score, instance, position)
"""
SPAN = ", first_moment(r.event_times) as request_first, last_moment(r.event_times) as request_last"
REQUIRE_VERDICT = """
    create or replace function require_verdict() returns trigger language plpgsql as $$
    begin
        if tg_op = 'UPDATE' and new.generation <= old.generation then
            raise exception 'a deployment generation only grows (% -> %)', old.generation, new.generation
                using errcode = 'check_violation';
        end if;
        if coalesce(new.override, '') = '' and {unproven} then
            raise exception 'version % has no verdict that promotes it{but}', new.live_version_id
                using errcode = 'check_violation', hint = 'validate it first, or name an override';
        end if;
        return new;
    end $$
"""
ANY_VERDICT = """not exists (
            select from validations v
            where v.candidate_id = new.live_version_id and v.decision = 'promote' and v.pipeline_id = new.pipeline_id
        )"""
NEWEST_VERDICT = """'promote' is distinct from (
            select v.decision from validations v
            where v.candidate_id = new.live_version_id and v.pipeline_id = new.pipeline_id and v.decision is not null
            order by coalesce(v.decided_at, v.finished_at) desc nulls last, v.id desc
            limit 1
        )"""


def upgrade() -> None:
    _keep_quarantined_rows_once()
    op.execute(MOMENT.format(name="first_moment", aggregate="min"))
    op.execute(MOMENT.format(name="last_moment", aggregate="max"))
    op.create_index(
        "prediction_requests_pipeline_time",
        "prediction_requests",
        ["pipeline_id", sa.text("last_moment(event_times)"), sa.text("first_moment(event_times)")],
    )
    op.execute("drop view predictions")
    op.execute(VIEW.format(more=SPAN))
    op.create_index("labels_by_prediction", "labels", ["pipeline_id", "seq"], postgresql_where="request_id is not null")
    op.create_table(
        "resolved_labels",
        sa.Column("label_seq", sa.BigInteger(), nullable=False),
        sa.Column("prediction_seq", sa.BigInteger(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"]),
        sa.PrimaryKeyConstraint("label_seq", "prediction_seq"),
    )
    op.create_index("resolved_labels_pipeline_key", "resolved_labels", ["pipeline_id", "key"])
    op.create_table(
        "resolution_watermarks",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("prediction_seq", sa.BigInteger(), nullable=False),
        sa.Column("label_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"]),
        sa.PrimaryKeyConstraint("pipeline_id"),
    )
    op.execute(REQUIRE_VERDICT.format(unproven=NEWEST_VERDICT, but=", or a newer one that does not"))
    op.execute("""
        create trigger deployment_history_never_emptied before truncate on deployment_history
        for each statement execute function refuse_change()
    """)


def _keep_quarantined_rows_once() -> None:
    op.add_column("quarantine", sa.Column("content_digest", sa.Text(), nullable=True))
    op.add_column("quarantine", sa.Column("times", sa.Integer(), server_default="1", nullable=False))
    op.add_column("quarantine", sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("""
        update quarantine set
            content_digest = encode(sha256(convert_to(reason || chr(31) || payload, 'UTF8')), 'hex'),
            last_received_at = received_at
    """)
    # One row of each group is known by an aggregate: pairing equal rows with each other would cost their number squared.
    op.execute("""
        create temporary table repeated_rows on commit drop as
        select min(seq) as seq, count(*) as times, max(received_at) as last, pipeline_id, kind, content_digest
        from quarantine group by pipeline_id, kind, content_digest having count(*) > 1
    """)
    op.execute("analyze repeated_rows")
    op.execute("""
        delete from quarantine q using repeated_rows first
        where first.pipeline_id = q.pipeline_id and first.kind = q.kind and first.content_digest = q.content_digest
          and first.seq < q.seq
    """)
    op.execute("""
        update quarantine q set times = first.times, last_received_at = first.last
        from repeated_rows first where q.seq = first.seq
    """)
    op.alter_column("quarantine", "content_digest", nullable=False)
    op.alter_column("quarantine", "last_received_at", nullable=False, server_default=sa.text("now()"))
    op.create_unique_constraint("quarantine_pipeline_content", "quarantine", ["pipeline_id", "kind", "content_digest"])


def downgrade() -> None:
    op.execute("drop trigger deployment_history_never_emptied on deployment_history")
    op.execute(REQUIRE_VERDICT.format(unproven=ANY_VERDICT, but=""))
    op.drop_constraint("quarantine_pipeline_content", "quarantine")
    for column in ("last_received_at", "times", "content_digest"):
        op.drop_column("quarantine", column)
    op.drop_table("resolution_watermarks")
    op.drop_table("resolved_labels")
    op.drop_index("labels_by_prediction", table_name="labels")
    op.execute("drop view predictions")
    op.execute(VIEW.format(more=""))
    op.drop_index("prediction_requests_pipeline_time", table_name="prediction_requests")
    op.execute("drop function first_moment(timestamptz[]), last_moment(timestamptz[])")
