"""The Dagster definitions of a project."""

import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg

from agent_pipelines.components.agent import Agent
from agent_pipelines.components.consistency import duplicates, problems_between, problems_within
from agent_pipelines.components.declared import declared_by
from agent_pipelines.components.lane import lane_definitions
from agent_pipelines.components.limits import Limits, declared_limits, limits_metadata, problems_of_limits
from agent_pipelines.components.resource import AgentResource, agent_of_key
from agent_pipelines.components.retention import retention_job, retention_schedule
from agent_pipelines.components.sensors import reconciler_sensor
from agent_pipelines.components.task import AgentTask
from agent_pipelines.components.witness import ticks_asset, ticks_check, witness_sensor
from agent_pipelines.core.critical_path import followers_of
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.engine.project_tree import ProjectTree
from agent_pipelines.runtimes.fleet import Agent as RuntimeAgent


def definitions(path: Path | str, *, kept_days: int | None = None, bursts: BurstSettings | None = None) -> dg.Definitions:
    """Load the defs folder of the dg project that a path lies in, and check that its tasks fit together.

    Adds what every project has: runs execute in one process, a sensor closes what a lost run left open, another one tells of
    due instants without a tick, which a check on the asset `agent_pipelines/ticks` shows, each workspace has a lane for bursts
    (`bursts` are their settings), and with `kept_days` a daily job removes what is older. Opens nothing.
    Raises DefinitionError that names file, field and fix, for all problems found at once.

        @dg.definitions
        def defs() -> dg.Definitions:
            return agent_pipelines.definitions(Path(__file__).parent)
    """
    tree = ProjectTree.for_project(Path(path))
    tasks, broken_tasks = _declared(tree, AgentTask)
    declared_agents, broken_agents = _declared(tree, Agent)
    limits, broken_limits = _declared(tree, Limits)
    agents = [*declared_agents, *(task.own_agent for task in tasks if task.own_agent is not None)]
    refuse([*broken_tasks, *broken_agents, *broken_limits, *problems_within(tasks, agents), *duplicates(tasks, agents)])
    for task in tasks:
        task.followed_by(followers_of(task, tasks))
    loaded = tree.build_all()
    further_agents, assets = _agents_in(loaded), _assets_in(loaded, tasks)
    refuse(
        [
            *problems_between(tasks, agents, further_agents=further_agents, assets=assets),
            *problems_of_limits(limits, tasks, agents, further_agents=further_agents),
        ]
    )
    limited = declared_limits(tree.project_root.name, limits)
    retention = None if kept_days is None else retention_job()
    added = dg.Definitions(
        executor=dg.in_process_executor if loaded.executor is None else None,
        assets=[ticks_asset()],
        asset_checks=[ticks_check()],
        sensors=[reconciler_sensor(), witness_sensor()],
        jobs=[] if retention is None else [retention],
        metadata=limits_metadata(limited),
        schedules=[] if retention is None or kept_days is None else [retention_schedule(retention, kept_days=kept_days)],
    )
    told = declared_by(tasks, agents, further_agents=further_agents, assets=assets)
    lanes = [lane_definitions(workspace, tasks, told, bursts or BurstSettings(), limits=limited) for workspace in told.workspaces]
    return dg.Definitions.merge(loaded, added, *lanes)


def declared_tasks(path: Path | str) -> Sequence[AgentTask]:
    """The tasks in the defs folder of the dg project that a path lies in, each with the place of its declaration.

    Raises DefinitionError for all that cannot be loaded, whatever the code of the project raises.
    """
    with _loading(path):
        tasks, broken = _declared(ProjectTree.for_project(Path(path)), AgentTask)
        refuse(broken)
        return tasks


def declared(path: Path | str) -> Declared:
    """What the dg project that a path lies in declares for tasks that are registered at run time.

    Raises DefinitionError, as `declared_tasks`.
    """
    with _loading(path):
        tree = ProjectTree.for_project(Path(path))
        tasks, broken_tasks = _declared(tree, AgentTask)
        agents, broken_agents = _declared(tree, Agent)
        refuse([*broken_tasks, *broken_agents])
        loaded = tree.build_all()
        return declared_by(tasks, agents, further_agents=_agents_in(loaded), assets=_assets_in(loaded, tasks))


def declared_agents(path: Path | str) -> Mapping[str, Callable[[], RuntimeAgent]]:
    """What makes each agent that the dg project of a path declares, by its name, for use outside of Dagster's runs.

    Raises DefinitionError, as `declared_tasks`.
    """
    with _loading(path):
        tree = ProjectTree.for_project(Path(path))
        tasks, broken_tasks = _declared(tree, AgentTask)
        agents, broken_agents = _declared(tree, Agent)
        refuse([*broken_tasks, *broken_agents])
        own = [task.own_agent for task in tasks if task.own_agent is not None]
        found = {agent.name: agent.resource().create for agent in (*agents, *own)}
        for key, resource in (tree.build_all().resources or {}).items():
            name = agent_of_key(key)
            if name is not None and isinstance(resource, AgentResource):
                found.setdefault(name, resource.create)
        return found


@contextmanager
def _loading(path: Path | str) -> Generator[None]:
    try:
        yield
    except DefinitionError:
        raise
    except Exception as error:
        raise DefinitionError(f"the tasks cannot be loaded: {_words(error)}", file=path) from error


def _words(error: BaseException) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    frames = traceback.extract_tb(causes[-1].__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return " ".join(redactor.text(f"{type(causes[-1]).__name__}: {causes[-1]}").split()) + place


def _declared(tree: ProjectTree, kind: type[Any]) -> tuple[list[Any], list[Any]]:
    loaded, problems = tree.load_all(kind)
    for component, file in loaded:
        component.declared_in(file, tree.project_root)
    return [component for component, _ in loaded], list(problems)


def _agents_in(loaded: dg.Definitions) -> set[str]:
    return {name for key in loaded.resources or {} if (name := agent_of_key(key)) is not None}


def _assets_in(loaded: dg.Definitions, tasks: Sequence[AgentTask]) -> set[str]:
    """The keys of the assets that are no tasks."""
    keys: set[str] = set()
    for asset in loaded.assets or ():
        found = getattr(asset, "keys", None) or [getattr(asset, "key", None)]
        keys |= {key.to_user_string() for key in found if isinstance(key, dg.AssetKey)}
    return keys - {task.path for task in tasks}


class _Module(ModuleType):
    """Makes `agent_pipelines.definitions(path)` work also where the name is bound to this module."""

    def __call__(self, path: Path | str, *, kept_days: int | None = None, bursts: BurstSettings | None = None) -> dg.Definitions:
        return definitions(path, kept_days=kept_days, bursts=bursts)


sys.modules[__name__].__class__ = _Module
