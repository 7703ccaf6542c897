"""What a shadow scored, beside what was answered.

Revision: 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shadow_comparisons",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("live_version_id", sa.Uuid(), nullable=False),
        sa.Column("shadow_version_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("live_scores", sa.ARRAY(sa.Float()), nullable=False),
        sa.Column("shadow_scores", sa.ARRAY(sa.Float()), nullable=False),
        sa.Column("live_run_us", sa.Integer(), nullable=False),
        sa.Column("shadow_run_us", sa.Integer(), nullable=False),
        sa.Column("compared_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"]),
        sa.ForeignKeyConstraint(["live_version_id"], ["versions.id"]),
        sa.ForeignKeyConstraint(["shadow_version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "shadow_comparisons_of_version", "shadow_comparisons", ["pipeline_id", "shadow_version_id", "id"], unique=False
    )
    op.create_index("shadow_comparisons_by_age", "shadow_comparisons", ["compared_at"], unique=False)


def downgrade() -> None:
    op.drop_table("shadow_comparisons")
