"""Runs migrations on the connection that `migrate` hands over."""

from alembic import context

from agent_pipelines.store.migration import VERSION_TABLE
from agent_pipelines.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
