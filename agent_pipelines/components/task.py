"""Tasks in YAML."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import yaml
from pydantic import BaseModel, PrivateAttr

from agent_pipelines.components.agent import Agent
from agent_pipelines.components.asset import task_asset
from agent_pipelines.components.batch.asset import merged_asset, shards_asset
from agent_pipelines.components.batch.job import batch_jobs
from agent_pipelines.components.claim import refuse_reserved_names
from agent_pipelines.components.declaration import Declaration
from agent_pipelines.components.job import job_name, task_job
from agent_pipelines.components.outcome import DEGRADED_CHECK, SCHEMA_CHECK
from agent_pipelines.components.reading import Attributes, substitute, validate
from agent_pipelines.components.scaffolding import TaskScaffolder
from agent_pipelines.components.schedules import schedules_for
from agent_pipelines.components.sensors import sensors_for
from agent_pipelines.components.source import Source
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.refusals import Way, way_of
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import trigger_name

PROMPT_FILE = "prompt.md"
_KEPT = {SCHEMA_CHECK: "the schema", DEGRADED_CHECK: "`degrade`"}


class TaskAttributes(Attributes):
    """The attributes of a task in YAML."""

    model_of: ClassVar[type[BaseModel]] = TaskSpec
    optional = ("name",)


@dg.scaffold_with(TaskScaffolder)
class AgentTask(Declaration, TaskSpec):
    """A task for an agent: what it is asked, when, and what must come back.

    It becomes an asset with its checks, a job, schedules and sensors. In YAML the name defaults to that of the folder and
    the prompt to the file prompt.md in it. Templates of Dagster, as `{{ env.NAME }}`, work everywhere but in the texts that
    are templates of ours: prompt, system, deduplicate_by, cache.key, variables and the key of a batch.
    """

    attributes = TaskAttributes

    _agent: Agent | None = PrivateAttr(default=None)
    _followers: tuple[TaskSpec, ...] = PrivateAttr(default=())

    def followed_by(self, followers: Sequence[TaskSpec]) -> None:
        """Say which tasks come after this one and have to be finished within a time."""
        self._followers = tuple(followers)

    @property
    def own_agent(self) -> Agent | None:
        """The agent that is declared with the task, as for a Python function."""
        return self._agent

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "AgentTask":
        assert isinstance(model, TaskAttributes)
        source = Source.of(context)
        values = substitute(model.written, context, source, verbatim=_is_ours)
        values, source = _with_prompt(values, source)
        values, source = _with_schema(values, source)
        task = validate(cls, {**source.named_by_folder, **values}, source)
        task._source = source
        refuse(task.problems())
        return task

    @classmethod
    def of_function(cls, reference: str, values: Mapping[str, Any], source: Source) -> "AgentTask":
        """A task whose agent is the Python function at `module:name`. Raises DefinitionError."""
        task = validate(cls, {**values, "agent": "function"}, source)
        task.agent = f"{task.application}__{task.name}"
        task._source = source
        task._agent = Agent(name=task.agent, runtime="python", config={"function": reference})
        refuse(task.problems())
        return task

    def problems(self) -> list[DefinitionError]:
        """What Dagster would refuse, in our words."""
        found = [
            self.problem(f"`{check.name}` is the check of {_KEPT[check.name]}", f"checks[{index}].name", "Choose another name")
            for index, check in enumerate(self.checks)
            if check.name in _KEPT
        ]
        for field, tags, owners in (("tags", self.tags, ()), ("owners", {}, self.owners)):
            try:
                dg.AssetSpec("x", tags=tags, owners=list(owners))
            except Exception as error:
                found.append(self.problem(str(error), field))
        try:
            refuse_reserved_names(self)
        except DefinitionError as error:
            found.append(self.problem(error.problem, error.field or (), error.fix))
        return found

    def problem(self, problem: str, at: Way | str = (), fix: str | None = None) -> DefinitionError:
        """An error about a field of this task, in which a trigger may go by its name."""
        way = way_of(at) if isinstance(at, str) else tuple(at)
        names = [trigger_name(trigger) for trigger in self.triggers]
        if len(way) > 1 and way[0] == "triggers" and way[1] in names:
            way = ("triggers", names.index(str(way[1])), *way[2:])
        return self._source.problem(problem, way, fix)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        job = job_name(self)
        assets, jobs = [task_asset(self, followers=self._followers)], [task_job(self)]
        if self.batch is not None:
            directory = self._source.root or Path()
            assets, jobs = [merged_asset(self, directory), shards_asset(self, directory)], [task_job(self), *batch_jobs(self)]
        return dg.Definitions(
            assets=assets,
            jobs=jobs,
            schedules=schedules_for(self, job),
            sensors=sensors_for(self, job),
            resources={} if self._agent is None else self._agent.build_defs(context).resources,
        )


def _is_ours(way: Way) -> bool:
    match tuple(way):
        case ("prompt" | "system" | "deduplicate_by" | "variables",):
            return True
        case ("triggers", int(), "variables") | ("output", "schema") | ("cache", "key") | ("batch", "key"):
            return True
        case _:
            return False


def _with_prompt(values: dict[str, Any], source: Source) -> tuple[dict[str, Any], Source]:
    if "prompt" in values or source.file is None:
        return values, source
    file = source.file.parent / PROMPT_FILE
    if not file.is_file():
        return values, source
    return {**values, "prompt": _text(file, source, "prompt")}, source.reading("prompt", file)


def _with_schema(values: dict[str, Any], source: Source) -> tuple[dict[str, Any], Source]:
    output = values.get("output")
    if not isinstance(output, Mapping) or not isinstance(output.get("schema_file"), str) or source.file is None:
        return values, source
    field = "output.schema_file"
    if "schema" in output:
        raise source.problem("a schema is given twice", field, "Keep `schema` or `schema_file`")
    file = source.file.parent / output["schema_file"]
    text = _text(file, source, field)
    try:
        schema = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise source.problem(f"{file.name} cannot be parsed: {error}", field) from None
    if not isinstance(schema, dict):
        raise source.problem(f"{file.name} holds no JSON Schema but {type(schema).__name__}", field, "Write an object")
    return {**values, "output": {**output, "schema": schema}}, source.reading("output.schema", file)


def _text(file: Path, source: Source, field: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise source.problem(f"there is no file {file.name}", field, f"Write {file.name} beside the task") from None
    except (OSError, UnicodeDecodeError) as error:
        raise source.problem(f"{file.name} cannot be read: {error}", field, "Write it as UTF-8 text") from None
