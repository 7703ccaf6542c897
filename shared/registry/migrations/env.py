"""Alembic environment: runs on the connection that `shared.registry.migrate` hands over, and knows every table."""

from alembic import context
from sqlmodel import SQLModel

import shared.registry.tables  # noqa: F401  registers the tables

NOT_IN_MODELS = ("prediction_requests_", "predictions")


def include_object(obj: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    """Leave partitions out of the comparison: they are made by a function of the database, not by models."""
    return not (kind == "table" and reflected and compare_to is None and str(name).startswith(NOT_IN_MODELS))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    include_object=include_object,
    compare_server_default=False,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
