"""The product's own record of the last hours, as the morning report reads it."""

from typing import Any

from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.engine.home import instance_of_home
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines.ledger.stored import StoredExecution

MOST = 400
"""Executions that a report reads at most, the newest ones."""


def record(invocation: Invocation) -> dict[str, Any]:
    """The executions admitted in the `hours` before the due instant, from the deployment of DAGSTER_HOME."""
    return executions_before(open_hub(database_url(instance_of_home())), invocation)


def executions_before(hub: Hub, invocation: Invocation) -> dict[str, Any]:
    """The executions of the invocation's workspace, oldest first; `left_out` says how many more there are at least."""
    hours = invocation.variables.get("hours", 24)
    if not isinstance(hours, int | float) or isinstance(hours, bool) or hours <= 0:
        raise ValueError(f"variable `hours` is {hours!r}; write a number above 0")
    since = invocation.due_at - round(hours * 3_600_000_000)
    with hub.database.reading() as connection:
        found = hub.executions.list(
            connection, workspace=invocation.workspace, created_from=since, created_to=invocation.due_at, limit=MOST + 1
        )
    rows = [_row(execution) for execution in reversed(found[:MOST])]
    return {
        "hours": hours,
        "until": isoformat(invocation.due_at),
        "executions": rows,
        "left_out": len(found) - len(rows),
        "summary": f"{len(rows)} executions in {hours:g} hours.",
    }


def _row(execution: StoredExecution) -> dict[str, Any]:
    output = execution.output
    row = {
        "task": execution.path,
        "status": str(execution.status),
        "duration_seconds": None if execution.duration_seconds is None else round(execution.duration_seconds, 3),
        "total_tokens": execution.usage.total_tokens,
        "cost_usd": execution.cost_usd,
        "attempts": execution.attempts,
        "error_class": None if execution.error_class is None else str(execution.error_class),
        "error_message": None if execution.error_message is None else execution.error_message[:200],
        "summary": output.get("summary") if isinstance(output, dict) else None,
    }
    return {name: value for name, value in row.items() if value is not None}
