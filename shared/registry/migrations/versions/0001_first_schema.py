"""First schema: every table of the registry, the partitioned prediction log with its view, and what the database itself guards.

Revision: 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

GUARDS = (
    # Partitions by month; the default one keeps a row whose month has none yet from being lost.
    "create table prediction_requests_default partition of prediction_requests default",
    """
    create function ensure_prediction_partition(moment timestamptz) returns text language plpgsql as $$
    declare
        month timestamptz := date_trunc('month', moment, 'UTC');
        name text := 'prediction_requests_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    begin
        if to_regclass(name) is null then
            execute format('create table %I partition of prediction_requests for values from (%L) to (%L)',
                           name, month, date_add(month, interval '1 month', 'UTC'));
        end if;
        return name;
    exception when duplicate_table or check_violation then
        return name;
    end $$
    """,
    "select ensure_prediction_partition(now()), ensure_prediction_partition(now() + interval '1 month')",
    """
    create view predictions as
    select r.pipeline_id, r.request_id, (u.position - 1)::int as row_index, r.seq, r.requested_at, r.version_id,
           r.version_number, r.generation, r.pinned, u.key, u.event_time, u.available_at, u.score, u.instance
    from prediction_requests r
    cross join lateral rows from (unnest(r.keys), unnest(r.event_times), unnest(r.available_ats), unnest(r.scores),
                                  jsonb_array_elements(r.instances))
        with ordinality as u(key, event_time, available_at, score, instance, position)
    """,
    # No version goes live without a verdict that promotes it, unless the change says who overrides and why.
    """
    create function require_verdict() returns trigger language plpgsql as $$
    begin
        if tg_op = 'UPDATE' and new.generation <= old.generation then
            raise exception 'a deployment generation only grows (% -> %)', old.generation, new.generation
                using errcode = 'check_violation';
        end if;
        if coalesce(new.override, '') = '' and not exists (
            select from validations v
            where v.candidate_id = new.live_version_id and v.decision = 'promote' and v.pipeline_id = new.pipeline_id
        ) then
            raise exception 'version % has no verdict that promotes it', new.live_version_id
                using errcode = 'check_violation', hint = 'validate it first, or name an override';
        end if;
        return new;
    end $$
    """,
    """
    create trigger deployments_need_verdict before insert or update on deployments
    for each row execute function require_verdict()
    """,
    """
    create function notify_deployment() returns trigger language plpgsql as $$
    begin
        perform pg_notify('relevo_deployments', new.pipeline_id::text);
        return null;
    end $$
    """,
    "create trigger deployments_notify after insert or update on deployments for each row execute function notify_deployment()",
    # One wake-up a statement for the dispatcher, which then reads the table; a lost one only delays it.
    """
    create function notify_outbox() returns trigger language plpgsql as $$
    begin
        perform pg_notify('relevo_outbox', '');
        return null;
    end $$
    """,
    "create trigger outbox_notify after insert on outbox for each statement execute function notify_outbox()",
    """
    create function refuse_change() returns trigger language plpgsql as $$
    begin
        raise exception '% is append-only', tg_table_name using errcode = 'check_violation';
    end $$
    """,
    """
    create trigger deployment_history_append_only before update or delete on deployment_history
    for each row execute function refuse_change()
    """,
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("pipelines", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "idempotency_records",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("body_digest", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "route", "idempotency_key"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("row_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("outbox_unsent", "outbox", ["id"], unique=False, postgresql_where="sent_at is null")
    op.create_table(
        "pipelines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "prediction_requests",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("keys", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("event_times", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("available_ats", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("instances", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("scores", postgresql.ARRAY(sa.Float()), nullable=False),
        sa.Column("latency_us", sa.Integer(), nullable=False),
        sa.Column("api_key_id", sa.String(), nullable=False),
        sa.Column("caller_request_id", sa.Text(), nullable=False),
        sa.Column("logged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "requested_at"),
        postgresql_partition_by="RANGE (requested_at)",
    )
    op.create_index("prediction_requests_pipeline_seq", "prediction_requests", ["pipeline_id", "seq"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("nudged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cycle_id", sa.Uuid(), nullable=True),
        sa.Column("event_watermark", sa.BigInteger(), nullable=True),
        sa.Column("label_watermark", sa.BigInteger(), nullable=True),
        sa.Column("prediction_watermark", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("train_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("train_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("test_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("test_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("train_rows", sa.Integer(), nullable=True),
        sa.Column("test_rows", sa.Integer(), nullable=True),
        sa.Column("train_label_mean", sa.Float(), nullable=True),
        sa.Column("statistics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pipeline_id", "number", name="datasets_pipeline_number"),
    )
    op.create_index(
        "datasets_open", "datasets", ["state"], unique=False, postgresql_where="state in ('queued', 'building')"
    )
    op.create_index(op.f("ix_datasets_cycle_id"), "datasets", ["cycle_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("content_digest", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("pipeline_id", "key", name="events_pipeline_key"),
    )
    op.create_index("events_pipeline_time", "events", ["pipeline_id", "event_time"], unique=False)
    op.create_table(
        "labels",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("row_index", sa.Integer(), nullable=True),
        sa.Column("label", sa.Double(), nullable=False),
        sa.Column("label_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("source_rank", sa.Integer(), nullable=False),
        sa.Column("content_digest", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("pipeline_id", "content_digest", name="labels_pipeline_content"),
    )
    op.create_index("labels_pipeline_key", "labels", ["pipeline_id", "key"], unique=False)
    op.create_index("labels_request", "labels", ["request_id"], unique=False)
    op.create_table(
        "monitoring_days",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("mean_prediction", sa.Float(), nullable=False),
        sa.Column("mean_label", sa.Float(), nullable=True),
        sa.Column("bias", sa.Float(), nullable=False),
        sa.Column("label_bias", sa.Float(), nullable=True),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("auc", sa.Float(), nullable=True),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("model_age_s", sa.Float(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "day"),
    )
    op.create_table(
        "monitoring_watermarks",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("prediction_seq", sa.BigInteger(), nullable=False),
        sa.Column("label_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id"),
    )
    op.create_table(
        "quarantine",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index(op.f("ix_quarantine_pipeline_id"), "quarantine", ["pipeline_id"], unique=False)
    op.create_table(
        "schedules",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id"),
    )
    op.create_table(
        "spec_versions",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "number"),
    )
    op.create_table(
        "runs",
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("nudged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("cycle_id", sa.Uuid(), nullable=True),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("environment", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_runs_cycle_id"), "runs", ["cycle_id"], unique=False)
    op.create_index(op.f("ix_runs_dataset_id"), "runs", ["dataset_id"], unique=False)
    op.create_index(op.f("ix_runs_pipeline_id"), "runs", ["pipeline_id"], unique=False)
    op.create_index("runs_open", "runs", ["state"], unique=False, postgresql_where="state in ('queued', 'running')")
    op.create_table(
        "run_progress",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("train_loss", sa.Float(), nullable=False),
        sa.Column("valid_loss", sa.Float(), nullable=True),
        sa.Column("is_best", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "fence", "epoch"),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("signature", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("train_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("train_label_mean", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pipeline_id", "number", name="versions_pipeline_number"),
        sa.UniqueConstraint("run_id"),
    )
    op.create_table(
        "deployments",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("live_version_id", sa.Uuid(), nullable=False),
        sa.Column("override", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["live_version_id"],
            ["versions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id"),
    )
    op.create_table(
        "validations",
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("nudged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("candidate_id", sa.Uuid(), nullable=False),
        sa.Column("baseline_id", sa.Uuid(), nullable=True),
        sa.Column("requested_baseline_id", sa.Uuid(), nullable=True),
        sa.Column("cycle_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("sentence", sa.Text(), nullable=True),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("baseline_generation", sa.BigInteger(), nullable=True),
        sa.Column("release_state", sa.Text(), nullable=True),
        sa.Column("released_generation", sa.BigInteger(), nullable=True),
        sa.Column("rejudged", sa.Integer(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["baseline_id"],
            ["versions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["versions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["requested_baseline_id"],
            ["versions.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_validations_candidate_id"), "validations", ["candidate_id"], unique=False)
    op.create_index(op.f("ix_validations_cycle_id"), "validations", ["cycle_id"], unique=False)
    op.create_index(op.f("ix_validations_pipeline_id"), "validations", ["pipeline_id"], unique=False)
    op.create_index(
        "validations_open", "validations", ["state"], unique=False, postgresql_where="state in ('queued', 'running')"
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("validation_id", sa.Uuid(), nullable=True),
        sa.Column("webhook_attempts", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["validation_id"],
            ["validations.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("validation_id"),
    )
    op.create_index("alerts_pipeline", "alerts", ["pipeline_id", "id"], unique=False)
    op.create_table(
        "cycles",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=True),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("validation_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("nudged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("advanced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["runs.id"],
        ),
        sa.ForeignKeyConstraint(
            ["validation_id"],
            ["validations.id"],
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "cycles_open",
        "cycles",
        ["state"],
        unique=False,
        postgresql_where="state in ('queued', 'dataset', 'training', 'validating')",
    )
    op.create_index(op.f("ix_cycles_pipeline_id"), "cycles", ["pipeline_id"], unique=False)
    op.create_table(
        "deployment_history",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("previous_version_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("validation_id", sa.Uuid(), nullable=True),
        sa.Column("override", sa.Text(), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["previous_version_id"],
            ["versions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["validation_id"],
            ["validations.id"],
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "generation"),
    )
    op.create_table(
        "schedule_slots",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cycle_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["cycle_id"],
            ["cycles.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["pipelines.id"],
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "slot"),
    )
    for statement in GUARDS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("drop view predictions")
    op.execute("drop trigger deployments_notify on deployments")
    op.execute("drop trigger deployments_need_verdict on deployments")
    op.execute("drop trigger outbox_notify on outbox")
    op.execute("drop trigger deployment_history_append_only on deployment_history")
    for function in (
        "notify_deployment()",
        "notify_outbox()",
        "require_verdict()",
        "refuse_change()",
        "ensure_prediction_partition(timestamptz)",
    ):
        op.execute(f"drop function {function}")
    op.drop_table("schedule_slots")
    op.drop_table("deployment_history")
    op.drop_index(op.f("ix_cycles_pipeline_id"), table_name="cycles")
    op.drop_index(
        "cycles_open", table_name="cycles", postgresql_where="state in ('queued', 'dataset', 'training', 'validating')"
    )
    op.drop_table("cycles")
    op.drop_index("alerts_pipeline", table_name="alerts")
    op.drop_table("alerts")
    op.drop_index("validations_open", table_name="validations", postgresql_where="state in ('queued', 'running')")
    op.drop_index(op.f("ix_validations_pipeline_id"), table_name="validations")
    op.drop_index(op.f("ix_validations_cycle_id"), table_name="validations")
    op.drop_index(op.f("ix_validations_candidate_id"), table_name="validations")
    op.drop_table("validations")
    op.drop_table("deployments")
    op.drop_table("versions")
    op.drop_table("run_progress")
    op.drop_index("runs_open", table_name="runs", postgresql_where="state in ('queued', 'running')")
    op.drop_index(op.f("ix_runs_pipeline_id"), table_name="runs")
    op.drop_index(op.f("ix_runs_dataset_id"), table_name="runs")
    op.drop_index(op.f("ix_runs_cycle_id"), table_name="runs")
    op.drop_table("runs")
    op.drop_table("spec_versions")
    op.drop_table("schedules")
    op.drop_index(op.f("ix_quarantine_pipeline_id"), table_name="quarantine")
    op.drop_table("quarantine")
    op.drop_table("monitoring_watermarks")
    op.drop_table("monitoring_days")
    op.drop_index("labels_request", table_name="labels")
    op.drop_index("labels_pipeline_key", table_name="labels")
    op.drop_table("labels")
    op.drop_index("events_pipeline_time", table_name="events")
    op.drop_table("events")
    op.drop_index(op.f("ix_datasets_cycle_id"), table_name="datasets")
    op.drop_index("datasets_open", table_name="datasets", postgresql_where="state in ('queued', 'building')")
    op.drop_table("datasets")
    op.drop_index("prediction_requests_pipeline_seq", table_name="prediction_requests")
    op.drop_table("prediction_requests")
    op.drop_table("pipelines")
    op.drop_index("outbox_unsent", table_name="outbox", postgresql_where="sent_at is null")
    op.drop_table("outbox")
    op.drop_table("idempotency_records")
    op.drop_table("api_keys")
