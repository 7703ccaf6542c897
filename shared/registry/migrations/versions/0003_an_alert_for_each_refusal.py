"""A validation may be alerted about more than once: serving can refuse a release each time a person approves it.

Revision: 0003.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint("alerts_validation_id_key", "alerts")


def downgrade() -> None:
    op.execute("""
        update alerts a set validation_id = null
        from alerts later where later.validation_id = a.validation_id and later.id > a.id
    """)
    op.create_unique_constraint("alerts_validation_id_key", "alerts", ["validation_id"])
