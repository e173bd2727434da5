"""Running tasks in this process, through Dagster, and reading what they left."""

from typing import Any

import dagster as dg

from agent_pipelines.components.agent import Agent
from agent_pipelines.components.task import AgentTask
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines.ledger.stored import StoredExecution


def definitions_of(*tasks: AgentTask, agents: tuple[Agent, ...] = ()) -> dg.Definitions:
    """The definitions of tasks and agents, without a project."""
    context = dg.ComponentTree.for_test().load_context
    built = [component.build_defs(context) for component in (*tasks, *agents)]
    return dg.Definitions.merge(*built, dg.Definitions(executor=dg.in_process_executor))


def fake(name: str = "writer", **config: Any) -> Agent:
    return Agent(name=name, runtime="fake", config=config)


def task(name: str = "digest", **changes: Any) -> AgentTask:
    return AgentTask.model_validate({"name": name, "intent": "Sum up", "agent": "writer", "prompt": "Go", **changes})


def run(
    defs: dg.Definitions, instance: dg.DagsterInstance, *, task: str = "digest", launch: Launch | None = None, **tags: str
) -> dg.ExecuteInProcessResult:
    """Run the job of a task."""
    given = {**tags, **({} if launch is None else launch.tags())}
    return defs.resolve_job_def(f"default__{task}").execute_in_process(instance=instance, raise_on_error=False, tags=given)


def hub_of(instance: dg.DagsterInstance) -> Hub:
    return open_hub(database_url(instance))


def executions(instance: dg.DagsterInstance, task: str = "digest") -> list[StoredExecution]:
    """The executions of a task, oldest first."""
    hub = hub_of(instance)
    with hub.database.reading() as connection:
        return list(hub.executions.list(connection, task=task))[::-1]
