"""How far triggers have looked: what a sensor remembers from one evaluation to the next, which Dagster keeps as its cursor."""

from collections.abc import Collection, Mapping

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.task import TaskKey
from agent_pipelines.engine.triggers import StoredTrigger

_FIRST = "from"


def sensor_name(task: TaskKey) -> str:
    """The name of a task's sensor."""
    return f"{task[1]}__{task[2]}__triggers"


class TriggerCursor(BaseModel):
    """How far one trigger has looked. `first` is when its present declaration was first watched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str
    first: Microseconds
    marks: dict[str, int] = {}
    """Positions, named and read by the watch of the trigger's kind."""

    @classmethod
    def of(cls, row: StoredTrigger) -> "TriggerCursor":
        """How far a daemon of ours has looked, as the table of the triggers has it."""
        marks = {name: value for name, value in row.marks.items() if isinstance(value, int)}
        return cls(revision=row.revision, first=marks.pop(_FIRST, row.since), marks=marks)

    def as_marks(self) -> dict[str, JsonValue]:
        """What `of` reads."""
        return {**self.marks, _FIRST: self.first}


class SensorCursor(BaseModel):
    """The memory of a task's sensor.

    `requested` are the ticks without a verdict whose runs were requested in an evaluation that Dagster has stored. Open ticks
    that are not among them were claimed by an evaluation that got lost, and are requested again.
    `switched_on` is when Dagster says that the sensor was last switched on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    switched_on: Microseconds | None = None
    triggers: dict[str, TriggerCursor] = {}
    requested: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str | None) -> "SensorCursor":
        """Read what was written; nothing, or something that somebody typed, is a fresh start."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()

    def switched(self, started: float | None, now: Microseconds) -> "SensorCursor":
        """The cursor as it is valid now: what happened while the sensor was switched off is not caught up.

        `started` is when Dagster says that the sensor was last switched on, in seconds.
        """
        if started is None:
            return self
        switched_on = round(started * 1_000_000)
        if self.switched_on == switched_on:
            return self
        first = min(switched_on, now)
        again = {
            name: known if known.first >= first else TriggerCursor(revision=known.revision, first=first)
            for name, known in self.triggers.items()
        }
        return self.model_copy(update={"switched_on": switched_on, "triggers": again})

    def resumed(self, positions: Mapping[str, TriggerCursor]) -> "SensorCursor":
        """The cursor with positions of a daemon, where it has none of its own."""
        return self.model_copy(update={"triggers": {**positions, **self.triggers}})

    def without(self, names: Collection[str]) -> "SensorCursor":
        """The cursor without the positions of triggers that a daemon watches now."""
        return self.model_copy(update={"triggers": {name: at for name, at in self.triggers.items() if name not in names}})

    def write(self) -> str:
        """The text that `read` reads."""
        return self.model_dump_json(exclude_defaults=True)
