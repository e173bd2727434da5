"""What a Dagster run is told of the tick that it was launched for."""

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.tick import AGAIN, MERGE, SHARD, Tick

_VISIBLE = frozenset({"application", "batch", "task", "trigger", "verdict"})


def tag(name: str) -> str:
    """The run tag of a name. What people look for is visible; the rest is hidden, as Dagster hides its own `.dagster/`."""
    return f"agent_pipelines/{name}" if name in _VISIBLE else f".dagster/agent_pipelines.{name}"


class RunOf(BaseModel):
    """The run that a tick of a batch asks for: a job of its task, and tags, as that of a partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    tags: dict[str, str] = {}


class Launch(BaseModel):
    """A request to run one task for one tick, carried to the run in its tags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """`application/task`; a run may hold other tasks besides, to which the request does not apply."""
    trigger: str
    origin: Origin
    occurrence: str
    due_at: Microseconds
    logical_at: Microseconds
    actor: str = "system"
    event_id: str | None = None
    variables: dict[str, JsonValue] = {}
    resume: bool = False
    """Whether the run resumes the invocation of an earlier one, as after a failure."""

    def tags(self) -> dict[str, str]:
        """The request as run tags. `variables` is JSON; instants are microseconds."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return {
            tag(name): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in fields.items()
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Launch | None":
        """Read the request back from a run's tags; None if the run was not launched for a tick."""
        fields: dict[str, object] = {}
        for name, field in cls.model_fields.items():
            if (text := tags.get(tag(name))) is not None:
                fields[name] = text if field.annotation in (str, Origin, str | None) else json.loads(text)
        return cls.model_validate(fields) if "trigger" in fields else None


def launch_of(tick: Tick) -> tuple[str, Launch, dict[str, str]]:
    """What a tick asks for: the job of its task, the request, and the tags that its run bears besides those of the request.

    A repair asks for the invocation of another tick once more, and a continuation goes on with it: the request says `resume`, and
    whoever executes it must pass that on as `RunRef.resumes`, and the occurrence of a continuation as `RunRef.continues`.
    A repair gets no verdict, unlike all others, by the admission of that invocation. A shard and a merge of a batch have jobs of
    their own.
    """
    tags: dict[str, str] = {}
    job = f"{tick.application}__{tick.task}"
    if tick.trigger in AGAIN:
        return job, Launch.model_validate(tick.inputs["launch"]), {tag(tick.trigger): tick.occurrence}
    if tick.trigger in (SHARD, MERGE):
        asked = RunOf.model_validate(tick.inputs["run"])
        job, tags = asked.job, asked.tags
    variables = tick.inputs.get("variables")
    event_id = tick.inputs.get("event_id")
    launch = Launch(
        task=tick.path,
        trigger=tick.trigger,
        origin=tick.origin,
        occurrence=tick.occurrence,
        due_at=tick.due_at,
        logical_at=tick.logical_at,
        actor=tick.actor,
        event_id=event_id if isinstance(event_id, str) else None,
        variables=variables if isinstance(variables, dict) else {},
    )
    return job, launch, tags
