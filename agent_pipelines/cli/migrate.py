"""`agent-pipelines migrate`: the tables of the record."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson
from agent_pipelines.cli.deployment import Deployment


def migrate(context: typer.Context, as_json: AsJson = False) -> None:
    """Bring the tables of the record to the state that this version needs."""
    from agent_pipelines.engine.place import database_url
    from agent_pipelines.store.database import Database
    from agent_pipelines.store.migration import is_current
    from agent_pipelines.store.migration import migrate as bring_up_to_date

    database = Database(database_url(Deployment.of(context).instance))
    was_current = is_current(database)
    bring_up_to_date(database)
    if as_json:
        render.document({"database": repr(database), "changed": not was_current})
    else:
        render.text(f"{database!r}: " + ("nothing to do" if was_current else "brought up to date"))
    database.close()
