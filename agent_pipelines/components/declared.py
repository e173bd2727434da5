"""What a project declares, told to those who register tasks without loading it."""

from collections.abc import Collection, Sequence

from agent_pipelines.components.agent import Agent
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.task import TaskSpec


def declared_by(
    tasks: Sequence[TaskSpec], agents: Sequence[Agent], *, further_agents: Collection[str], assets: Collection[str]
) -> Declared:
    """What a registered task may refer to in a project.

    `further_agents` are resources that are declared otherwise, `assets` the keys of the assets that are no tasks.
    """
    checks = {check.python for task in tasks for check in task.checks}
    gates = {task.gate for task in tasks if task.gate is not None}
    return Declared(
        workspaces=tuple(sorted({"default", *(task.workspace for task in tasks)})),
        agents=tuple(sorted({*(agent.name for agent in agents), *further_agents})),
        node_agents=tuple(sorted(agent.name for agent in agents if agent.runtime == "node")),
        references=tuple(sorted(checks | gates)),
        tasks=tuple(sorted(task.key for task in tasks)),
        assets=tuple(sorted(assets)),
    )
