"""What a sensor remembers from one evaluation to the next; Dagster keeps it as its cursor."""

from pydantic import BaseModel, ConfigDict, ValidationError

from agent_pipelines.core.clock import Microseconds


class TriggerCursor(BaseModel):
    """How far one trigger has looked. `first` is when its present declaration was first watched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str
    first: Microseconds
    marks: dict[str, int] = {}
    """Positions, named and read by the watch of the trigger's kind."""


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

    def write(self) -> str:
        """The text that `read` reads."""
        return self.model_dump_json(exclude_defaults=True)
