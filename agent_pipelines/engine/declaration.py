"""What a Dagster schedule or sensor of ours says of the triggers that it stands for."""

from collections.abc import Mapping
from typing import Annotated, Any

from dagster import JsonMetadataValue
from pydantic import BaseModel, ConfigDict, Field

from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import Trigger
from agent_pipelines.engine.tick import Lane

TASK = "agent_pipelines/task"
TRIGGER = "agent_pipelines/trigger"
TRIGGERS = "agent_pipelines/triggers"


class DeclaredTask(BaseModel):
    """The task that a schedule or a sensor starts, and how its ticks are to be launched."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspace: str
    application: str
    task: str
    job: str
    lane: Lane = "run"
    priority: int = 0
    spec_hash: str

    @property
    def key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.task)


class DeclaredTriggers(BaseModel):
    """A task and those of its triggers that are on while one schedule or sensor is switched on.

    It travels as metadata of that schedule or sensor, because the daemon does not load the project's code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: DeclaredTask
    triggers: tuple[Annotated[Trigger, Field(discriminator="kind")], ...]

    def schedule_metadata(self) -> dict[str, JsonMetadataValue]:
        """As metadata of a schedule, which stands for one trigger."""
        (trigger,) = self.triggers
        return {TASK: self._task(), TRIGGER: JsonMetadataValue(trigger.model_dump(mode="json"))}

    def sensor_metadata(self) -> dict[str, JsonMetadataValue]:
        """As metadata of a sensor, which may stand for several."""
        return {TASK: self._task(), TRIGGERS: JsonMetadataValue([trigger.model_dump(mode="json") for trigger in self.triggers])}

    @staticmethod
    def are_in(metadata: Mapping[str, Any]) -> bool:
        """Whether a schedule or sensor of this metadata is one of ours."""
        return isinstance(metadata.get(TASK), JsonMetadataValue)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "DeclaredTriggers | None":
        """Read it back from the metadata of a schedule or a sensor; None if it is not one of ours.

        Raises ValueError for what another version of ours has written and this one does not know.
        """
        if not cls.are_in(metadata):
            return None
        values = {name: value.data for name, value in metadata.items() if isinstance(value, JsonMetadataValue)}
        triggers = values.get(TRIGGERS, [values.get(TRIGGER)])
        return cls.model_validate({"task": values[TASK], "triggers": triggers})

    def _task(self) -> JsonMetadataValue:
        return JsonMetadataValue(self.task.model_dump(mode="json"))
