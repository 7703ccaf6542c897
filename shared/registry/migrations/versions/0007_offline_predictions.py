"""Generations of offline predictions.

Revision: 0007.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "precomputes",
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", moment),
        sa.Column("worker", sa.Text()),
        sa.Column("nudged_at", moment),
        sa.Column("started_at", moment),
        sa.Column("finished_at", moment),
        sa.Column("reason", sa.Text()),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("source", postgresql.JSONB(), nullable=False),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("slot", moment),
        sa.Column("version_id", sa.Uuid()),
        sa.Column("computed_at", moment),
        sa.Column("rows", sa.BigInteger()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("digest", sa.Text()),
        sa.Column("parity", postgresql.JSONB(), nullable=False),
        sa.Column("progress", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pipeline_id", "number", name="precomputes_pipeline_number"),
        sa.UniqueConstraint("pipeline_id", "slot", name="precomputes_pipeline_slot"),
    )
    op.create_index(
        "precomputes_open", "precomputes", ["state"], postgresql_where=sa.text("state in ('queued', 'running')")
    )
    op.create_index(
        "precomputes_one_running",
        "precomputes",
        ["pipeline_id"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )


def downgrade() -> None:
    op.drop_table("precomputes")
