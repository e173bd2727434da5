"""The deadline that the tasks after a step leave to it."""

from collections.abc import Sequence

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.critical_path import allowance
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub


def deadline_of(
    hub: Hub, spec: TaskSpec, followers: Sequence[TaskSpec], invocation: Invocation, run: RunRef
) -> Microseconds | None:
    """When a step is to be done, so that all that follows can be; None if nothing says so.

    What follows is expected to take as long as usual, or as long as it may if it never ran. What is done later on purpose has no
    deadline: a backfill, and a run that takes up an earlier one.
    """
    if not followers or run.resumes or invocation.origin is Origin.BACKFILL:
        return None
    with hub.database.reading() as connection:
        usual = {each.path: hub.executions.usual_duration(connection, each.key) for each in followers}

    def expected(each: TaskSpec) -> float:
        known = usual[each.path]
        return float(each.timeout.attempt) if known is None else known

    seconds = allowance(spec, followers, expected)
    return None if seconds is None else invocation.due_at + round(seconds * 1_000_000)
