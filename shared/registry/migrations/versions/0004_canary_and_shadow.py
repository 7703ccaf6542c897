"""A canary and a shadow stand beside the live version, and the log says as what a version answered.

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A change of what stands beside the live version is no judgement of the live version; lowering a canary's weight is none of it.
REQUIRE_VERDICT = """
    create or replace function require_verdict() returns trigger language plpgsql as $$
    begin
        if tg_op = 'UPDATE' and new.generation <= old.generation then
            raise exception 'a deployment generation only grows (% -> %)', old.generation, new.generation
                using errcode = 'check_violation';
        end if;
        if coalesce(new.override, '') = '' and not promoted(new.live_version_id, new.pipeline_id) and (
            new.live_version_id is distinct from old.live_version_id or new.override is distinct from old.override
            or (new.canary_version_id, new.canary_weight, new.shadow_version_id, new.shadow_sample)
                is not distinct from (old.canary_version_id, old.canary_weight, old.shadow_version_id, old.shadow_sample)
        ) then
            raise exception 'version % has no verdict that promotes it, or a newer one that does not', new.live_version_id
                using errcode = 'check_violation', hint = 'validate it first, or name an override';
        end if;
        if coalesce(new.canary_override, '') = '' and new.canary_version_id is not null and (
            new.canary_version_id is distinct from old.canary_version_id or new.canary_weight > old.canary_weight
            or new.canary_override is distinct from old.canary_override
        ) and not promoted(new.canary_version_id, new.pipeline_id) then
            raise exception 'canary % has no verdict that promotes it, or a newer one that does not', new.canary_version_id
                using errcode = 'check_violation', hint = 'validate it first, or name an override';
        end if;
        return new;
    end $$
"""
# By the newest verdict.
PROMOTED = """
    create function promoted(version uuid, pipeline uuid) returns boolean language sql stable
    return 'promote' is not distinct from (
        select v.decision from validations v
        where v.candidate_id = version and v.pipeline_id = pipeline and v.decision is not null
        order by coalesce(v.decided_at, v.finished_at) desc nulls last, v.id desc
        limit 1
    )
"""
REQUIRE_VERDICT_OF_LIVE = """
    create or replace function require_verdict() returns trigger language plpgsql as $$
    begin
        if tg_op = 'UPDATE' and new.generation <= old.generation then
            raise exception 'a deployment generation only grows (% -> %)', old.generation, new.generation
                using errcode = 'check_violation';
        end if;
        if coalesce(new.override, '') = '' and 'promote' is distinct from (
            select v.decision from validations v
            where v.candidate_id = new.live_version_id and v.pipeline_id = new.pipeline_id and v.decision is not null
            order by coalesce(v.decided_at, v.finished_at) desc nulls last, v.id desc
            limit 1
        ) then
            raise exception 'version % has no verdict that promotes it, or a newer one that does not', new.live_version_id
                using errcode = 'check_violation', hint = 'validate it first, or name an override';
        end if;
        return new;
    end $$
"""
VIEW = """
    create view predictions as
    select r.pipeline_id, r.request_id, (u.position - 1)::int as row_index, r.seq, r.requested_at, r.version_id,
           r.version_number, r.generation, r.pinned, u.key, u.event_time, u.available_at, u.score, u.instance,
           first_moment(r.event_times) as request_first, last_moment(r.event_times) as request_last{more}
    from prediction_requests r
    cross join lateral rows from (unnest(r.keys), unnest(r.event_times), unnest(r.available_ats), unnest(r.scores),
                                  jsonb_array_elements(r.instances))
        with ordinality as u(key, event_time, available_at, score, instance, position)
"""
BESIDE = (("canary_version_id", "canary_weight"), ("shadow_version_id", "shadow_sample"))
CHECKS = {
    "deployments_canary_is_not_live": "canary_version_id <> live_version_id",
    "deployments_shadow_is_not_live": "shadow_version_id <> live_version_id",
    "deployments_canary_weight": (
        "num_nulls(canary_version_id, canary_weight) in (0, 2) and canary_weight > 0 and canary_weight <= 1"
    ),
    "deployments_shadow_sample": (
        "num_nulls(shadow_version_id, shadow_sample) in (0, 2) and shadow_sample > 0 and shadow_sample <= 1"
    ),
}


def upgrade() -> None:
    for table in ("deployments", "deployment_history"):
        for version, share in BESIDE:
            op.add_column(table, sa.Column(version, sa.Uuid(), nullable=True))
            op.add_column(table, sa.Column(share, sa.Float(), nullable=True))
            op.create_foreign_key(f"{table}_{version}_fkey", table, "versions", [version], ["id"])
    op.add_column("deployments", sa.Column("canary_override", sa.Text(), nullable=True))
    for name, condition in CHECKS.items():
        op.create_check_constraint(name, "deployments", condition)
    op.execute(PROMOTED)
    op.execute(REQUIRE_VERDICT)
    op.add_column("prediction_requests", sa.Column("role", sa.String(), server_default="live", nullable=False))
    # What was logged before says it by `pinned` alone: writing a large log anew would hold up everybody.
    op.execute("drop view predictions")
    op.execute(VIEW.format(more=", case when r.pinned then 'pinned' else r.role end as role"))


def downgrade() -> None:
    op.execute("drop view predictions")
    op.execute(VIEW.format(more=""))
    op.drop_column("prediction_requests", "role")
    op.execute(REQUIRE_VERDICT_OF_LIVE)
    op.execute("drop function promoted(uuid, uuid)")
    for name in CHECKS:
        op.drop_constraint(name, "deployments")
    op.drop_column("deployments", "canary_override")
    for table in ("deployments", "deployment_history"):
        for pair in BESIDE:
            for column in pair:
                op.drop_column(table, column)
