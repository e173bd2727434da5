"""The way from a Dagster instance to the nouns of its deployment."""

from dagster import DagsterInstance

from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub


def hub_of(instance: DagsterInstance) -> Hub:
    """The hub over the database that belongs to a Dagster instance."""
    return open_hub(database_url(instance))
