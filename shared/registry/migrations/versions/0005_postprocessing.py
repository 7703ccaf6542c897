"""Post-processing: the stories of stages and of the removal list, and what became of each score.

Revision: 0005.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ("stages_history", "removal_history")


def upgrade() -> None:
    op.create_table(
        "stages_history",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("stages", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"]),
        sa.PrimaryKeyConstraint("pipeline_id", "number"),
    )
    op.create_table(
        "removal_history",
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("removes", sa.Boolean(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("items", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"]),
        sa.PrimaryKeyConstraint("pipeline_id", "sequence"),
    )
    for table in TABLES:
        op.execute(f"""
            create trigger {table}_append_only before update or delete on {table}
            for each row execute function refuse_change()
        """)
        op.execute(f"""
            create trigger {table}_never_emptied before truncate on {table}
            for each statement execute function refuse_change()
        """)
        op.execute(f"""
            create trigger {table}_notify after insert on {table} for each row execute function notify_deployment()
        """)
    op.add_column("prediction_requests", sa.Column("final_scores", postgresql.ARRAY(sa.Float()), nullable=True))
    op.add_column("prediction_requests", sa.Column("stages_number", sa.Integer(), nullable=True))
    op.add_column("prediction_requests", sa.Column("stages_spec", sa.Integer(), nullable=True))
    op.add_column("prediction_requests", sa.Column("removals", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("removals", "stages_spec", "stages_number", "final_scores"):
        op.drop_column("prediction_requests", column)
    for table in reversed(TABLES):
        op.drop_table(table)
