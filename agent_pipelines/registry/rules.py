"""What a registered task may be: a specification that names what the project declares, and brings nothing of its own."""

import difflib
from collections.abc import Collection, Iterator
from typing import Any

from agent_pipelines.context.composer import Composer
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.refusals import Way, field_of, way_of
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.core.trigger import TimeTrigger, Trigger, trigger_name
from agent_pipelines.engine.due import next_due
from agent_pipelines.engine.tick import CONTINUATION, MERGE, REPAIR, SHARD

_RESERVED = {
    REPAIR: "the ticks of repairs",
    CONTINUATION: "the ticks of continuations",
    SHARD: "the shards of batches",
    MERGE: "the merging of batches",
    str(Origin.ON_DEMAND): "launches on demand",
}


class Rules:
    """The rules at an instant. `registered` are the keys of registered tasks that may be referred to."""

    def __init__(self, declared: Declared, registered: Collection[TaskKey], now: Microseconds) -> None:
        self._declared = declared
        self._tasks = frozenset(declared.tasks)
        self._registered = frozenset(registered)
        self._now = now

    def problems(self, spec: TaskSpec, current: TaskSpec | None = None, *, place: str | None = None) -> Iterator[DefinitionError]:
        """All that is wrong with a specification; `current` is what the task is now, which may have been due before."""
        for words, way, fix in (
            *self._place(spec),
            *self._references(spec),
            *self._lane(spec),
            *self._triggers(spec, current),
            *_secrets(spec),
        ):
            yield DefinitionError(words, field=field_of(way), file=place, fix=fix)
        for problem in Composer.problems(spec):
            yield DefinitionError(problem.problem, field=_by_number(spec, problem.field), file=place, fix=problem.fix)

    def is_over(self, trigger: Trigger) -> bool:
        """Whether a trigger is on and yet never due again."""
        return trigger.enabled and isinstance(trigger, TimeTrigger) and next_due(trigger, self._now) is None

    def _place(self, spec: TaskSpec) -> Iterator["_Found"]:
        workspaces = self._declared.workspaces
        if spec.workspace not in workspaces:
            yield f"there is no workspace `{spec.workspace}`", ("workspace",), _near(spec.workspace, workspaces)
        if spec.key in self._tasks:
            problem = f"task {spec.path} is declared in the project"
            yield problem, ("name",), "Choose another name, or change the declaration"

    def _references(self, spec: TaskSpec) -> Iterator["_Found"]:
        declared = self._declared
        if spec.agent not in declared.agents:
            yield f"no agent `{spec.agent}` is declared", ("agent",), _near(spec.agent, declared.agents)
        for index, each in enumerate(spec.fallback):
            if each.agent is not None and each.agent not in declared.agents:
                near = _near(each.agent, declared.agents)
                yield f"no agent `{each.agent}` is declared", ("fallback", index, "agent"), near
        for index, step in enumerate(spec.degrade):
            application, _, name = spec.resolve(step.task or "").partition("/")
            if step.task is not None and (spec.workspace, application, name) not in self._tasks:
                near = _near(f"{application}/{name}", declared.paths(spec.workspace))
                yield f"no task `{application}/{name}` is declared", ("degrade", index, "task"), near
        functions: list[tuple[Way, str]] = [
            (("checks", index, "python"), check.python) for index, check in enumerate(spec.checks)
        ]
        functions += [] if spec.gate is None else [(("gate",), spec.gate)]
        for way, function in functions:
            if function not in declared.references:
                problem = f"no declared task has `{function}` as its check or gate, and a registered one brings no code"
                yield problem, way, _near(function, declared.references)
        if spec.output.schema_file is not None:
            problem = "a registered task reads no file"
            yield problem, ("output", "schema_file"), "Write the schema itself into `output.schema`"
        if spec.prompt is None:
            yield "is missing", ("prompt",), "Write the text itself: no file stands beside a registered task"
        for way, path in spec.upstream():
            yield from self._upstream(spec, way, path)

    def _upstream(self, spec: TaskSpec, way: Way, path: str) -> Iterator["_Found"]:
        application, _, name = path.partition("/")
        key = (spec.workspace, application, name)
        match way[-1]:
            case "asset" if key in self._registered:
                problem = f"`{path}` is a registered task, which has no asset of its own"
                yield problem, way, "Write a trigger of kind `after`"
            case "task" if key not in self._tasks and key not in self._registered:
                yield f"there is no task `{path}`", way, _near(path, self._declared.paths(spec.workspace))
            case _ if key not in self._tasks and key not in self._registered and path not in self._declared.assets:
                known = self._declared.paths(spec.workspace) | set(self._declared.assets)
                yield f"there is no task or asset `{path}`", way, _near(path, known)
            case _:
                return

    def _lane(self, spec: TaskSpec) -> Iterator["_Found"]:
        if spec.lane == "run" and "lane" in spec.model_fields_set:
            problem = "a registered task shares runs with others"
            yield problem, ("lane",), "Leave it out or write `burst`; a task with runs of its own is declared in the project"
        if spec.batch is not None:
            fix = "Declare the task in the project, or register a task for each item"
            yield "the shards of a batch are partitions of an asset of its own, which a registered task has not", ("batch",), fix
        if spec.pool is not None:
            yield "Dagster's pools limit runs, and registered tasks share runs", ("pool",), "Leave it out"

    def _triggers(self, spec: TaskSpec, current: TaskSpec | None) -> Iterator["_Found"]:
        before = () if current is None else current.triggers
        for index, trigger in enumerate(spec.triggers):
            name = trigger_name(trigger)
            if name in _RESERVED:
                yield f"the name `{name}` is kept for {_RESERVED[name]}", ("triggers", index, "name"), "Choose another"
            if trigger not in before and self.is_over(trigger):
                yield "is never due again", ("triggers", index), "Choose instants in the future, or leave the trigger out"


_Found = tuple[str, Way, str | None]


def _secrets(spec: TaskSpec) -> Iterator[_Found]:
    fix = "A specification is kept and shown; a declared agent names the environment variable that holds it"
    for way in _texts(spec.model_dump(mode="json", by_alias=True, exclude_defaults=True), ()):
        yield "holds a secret", way, fix


def _texts(value: Any, way: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The ways to texts, and to keys, that hold a secret."""
    match value:
        case str() if redactor.text(value) != value:
            yield way
        case dict():
            for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                if redactor.text(str(key)) != key:  # pyright: ignore[reportUnknownArgumentType]
                    yield way
                else:
                    yield from _texts(item, (*way, str(key)))  # pyright: ignore[reportUnknownArgumentType]
        case list():
            for index, item in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                yield from _texts(item, (*way, index))
        case _:
            return


def _by_number(spec: TaskSpec, written: str | None) -> str | None:
    """A field in which a trigger goes by its name, with the number of the trigger instead."""
    way = way_of(written or "")
    names = [trigger_name(trigger) for trigger in spec.triggers]
    if len(way) > 1 and way[0] == "triggers" and way[1] in names:
        way = ("triggers", names.index(str(way[1])), *way[2:])
    return field_of(way) or None


def _near(wrong: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(wrong, sorted(known), n=1)
    near = near or [name for name in sorted(known) if name.rpartition("/")[2] == wrong.rpartition("/")[2]][:1]
    if near:
        return f"Did you mean `{near[0]}`?"
    shown = sorted(known)[:10]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"There is: {', '.join(shown) or 'none'}{more}"
