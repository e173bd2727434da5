"""Whether the declarations of a project fit together."""

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from agent_pipelines.components.agent import Agent
from agent_pipelines.components.asset import op_name
from agent_pipelines.components.job import job_name
from agent_pipelines.components.task import AgentTask
from agent_pipelines.context.composer import Composer
from agent_pipelines.context.prompts import Prompts
from agent_pipelines.context.sessions import Sessions
from agent_pipelines.context.state import TaskState
from agent_pipelines.core.circle import circle
from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.trigger import After, AssetUpdate
from agent_pipelines.execution.batch.names import merge_job, shards_job
from agent_pipelines.execution.checks import load_checks, load_gate
from agent_pipelines.runtimes.python_child import resolve

# Runtimes that work from the invocation and can do without a prompt.
_WITHOUT_PROMPT = {"command", "fake", "python"}


def problems_within(tasks: Sequence[AgentTask], agents: Sequence[Agent]) -> Iterator[DefinitionError]:
    """What is wrong with single declarations: templates, names of Python functions, settings of runtimes.

    Imports the functions that are named.
    """
    clock = SystemClock()
    composer = Composer(Prompts(clock), Sessions(clock), TaskState(clock))
    for task in tasks:
        yield from task.problems()
        for judge in (composer.check, load_checks, load_gate):
            try:
                judge(task)
            except DefinitionError as error:
                yield task.problem(error.problem, error.field or (), error.fix)
    for agent in agents:
        yield from agent.problems()
        function = agent.config.get("function")
        if agent.runtime == "python" and isinstance(function, str):
            try:
                resolve(function)
            except Exception as error:  # the user's module may raise anything
                problem = f"{function!r} cannot be imported: {type(error).__name__}: {error}"
                yield agent.source.problem(problem, ("config", "function"), "Write `module:function` of an importable module")


def duplicates(tasks: Sequence[AgentTask], agents: Sequence[Agent]) -> Iterator[DefinitionError]:
    """Names that two declarations share. Dagster's names are made of application and task, so these must be unique."""
    named_tasks: dict[str, list[AgentTask]] = defaultdict(list)
    for task in tasks:
        named_tasks[job_name(task)].append(task)
        named_tasks[op_name(task)].append(task)
        if task.batch is not None:
            named_tasks[shards_job(task.key)].append(task)
            named_tasks[merge_job(task.key)].append(task)
            named_tasks[f"{op_name(task)}_shards"].append(task)
    seen: set[int] = set()
    for name, (first, *others) in named_tasks.items():
        for task in others:
            if id(task) in seen:
                continue
            seen.add(id(task))
            what = f"task {task.path}" if task.path == first.path else f"job or op {name} (of task {first.path})"
            problem = f"there is a {what} already, in {first.source.where(('name',)) or 'Python code'}"
            yield task.problem(problem, ("name",), "Rename one of the two, or move it to another application")
    named_agents: dict[str, list[Agent]] = defaultdict(list)
    for agent in agents:
        named_agents[agent.name].append(agent)
    for first, *others in named_agents.values():
        for agent in others:
            problem = f"there is an agent {agent.name} already, in {first.source.where(('name',)) or 'Python code'}"
            yield agent.source.problem(problem, ("name",), "Rename one of the two")


def problems_between(
    tasks: Sequence[AgentTask], agents: Sequence[Agent], *, further_agents: Collection[str], assets: Collection[str]
) -> Iterator[DefinitionError]:
    """References that lead nowhere, and circles.

    `further_agents` are resources that are declared otherwise, `assets` the keys of the assets that are no tasks.
    """
    known = {agent.name: agent for agent in agents}
    paths = {task.path for task in tasks}
    for task in tasks:
        if task.agent not in known and task.agent not in further_agents:
            yield task.problem(f"there is no agent `{task.agent}`", ("agent",), _suggested(task.agent, {*known, *further_agents}))
        elif task.prompt is None and task.agent in known and known[task.agent].runtime not in _WITHOUT_PROMPT:
            problem = f"is missing, and agent `{task.agent}` cannot work without"
            yield task.problem(problem, ("prompt",), "Write it here, or into prompt.md beside the task")
        for index, each in enumerate(task.fallback):
            if each.agent is not None and each.agent not in known and each.agent not in further_agents:
                suggested = _suggested(each.agent, {*known, *further_agents})
                yield task.problem(f"there is no agent `{each.agent}`", ("fallback", index, "agent"), suggested)
        for index, step in enumerate(task.degrade):
            if step.task is not None and (path := task.resolve(step.task)) not in paths:
                yield task.problem(f"there is no task `{path}`", ("degrade", index, "task"), _suggested(path, paths))
        for index, path in enumerate(task.dependency_paths):
            if path not in paths and path not in assets:
                problem = f"there is no task or asset `{path}`"
                yield task.problem(
                    problem, ("dependencies", index), _suggested_asset(path, task.dependencies[index], paths, assets)
                )
        for index, trigger in enumerate(task.triggers):
            if isinstance(trigger, After) and (path := task.resolve(trigger.task)) not in paths:
                yield task.problem(f"there is no task `{path}`", ("triggers", index, "task"), _suggested(path, paths))
            if isinstance(trigger, AssetUpdate) and trigger.asset not in paths and trigger.asset not in assets:
                problem = f"there is no task or asset `{trigger.asset}`"
                yield task.problem(
                    problem, ("triggers", index, "asset"), _suggested_asset(trigger.asset, trigger.asset, paths, assets)
                )
    yield from _circle(tasks)


def _circle(tasks: Sequence[AgentTask]) -> Iterator[DefinitionError]:
    by_path = {task.path: task for task in tasks}
    graph = {path: {upstream for _, upstream in task.upstream()} for path, task in by_path.items()}
    found = circle(graph)
    if found is not None:
        task = by_path[found[0]]
        field = next(field for field, upstream in task.upstream() if upstream == found[1])
        yield task.problem(f"a circle: {' waits for '.join(found)}", field, "Remove one of these dependencies or triggers")


def _suggested(wrong: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(wrong, sorted(known), n=1)
    near = near or [path for path in sorted(known) if path.rpartition("/")[2] == wrong.rpartition("/")[2]][:1]
    if near:
        return f"Did you mean `{near[0]}`?"
    shown = sorted(known)[:10]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"There is: {', '.join(shown) or 'none'}{more}."


def _suggested_asset(wrong: str, written: str, paths: Collection[str], assets: Collection[str]) -> str:
    if written in assets:
        return "A bare name means a task of this application; give the asset a key of two parts"
    return f"{_suggested(wrong, {*paths, *assets})} An asset from elsewhere is declared with dg.AssetSpec"
