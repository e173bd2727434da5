"""How many bursts there may be, and how long one stays."""

from collections.abc import Mapping
from typing import Any, Self

from dagster import JsonMetadataValue
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent_pipelines.core.duration import Duration

KEY = "agent_pipelines/burst"
"""Key of the settings in the metadata of the sensor that shows the bursts of a workspace."""


class BurstSettings(BaseModel):
    """Limits of the runs that work on many short tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: int = Field(default=2, ge=1, description="Bursts of a workspace at a time.")
    in_flight: int = Field(default=100, ge=1, description="Executions at once, in all bursts of a workspace together.")
    idle: Duration = Field(default=Duration(30), description="A burst that has nothing to do for so long ends.")
    age: Duration = Field(default=Duration(600), description="A burst takes no further ticks after so long; another one does.")
    ahead: Duration = Field(default=Duration(15), description="A burst is launched so long before something is due.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.runs > self.in_flight:
            raise ValueError(f"runs: {self.runs} bursts cannot share {self.in_flight} executions; make `runs` at most `in_flight`")
        if self.age <= 2 * self.ahead:
            raise ValueError("age: a burst must live longer than twice the time that it is launched `ahead`")
        return self

    @property
    def share(self) -> int:
        """Executions at once in one burst."""
        return self.in_flight // self.runs

    def metadata(self) -> dict[str, JsonMetadataValue]:
        """As metadata of a sensor, for processes that do not load the project."""
        return {KEY: JsonMetadataValue(self.model_dump(mode="json"))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "BurstSettings | None":
        """Read them back; None if the sensor is another one."""
        value = metadata.get(KEY)
        return cls.model_validate(value.data) if isinstance(value, JsonMetadataValue) else None
