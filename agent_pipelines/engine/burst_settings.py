"""How many bursts of a workspace there are, and how each of them works."""

from pydantic import BaseModel, ConfigDict, Field

from agent_pipelines.core.duration import Duration

BURST = "agent_pipelines/burst"
"""Metadata key of the sensor of a workspace's bursts, which has `BurstSettings` as JSON text; and the tag of their job."""

LANE_SENSOR = "agent_pipelines__bursts__"
"""Beginning of the name of the sensor that shows and switches a workspace's bursts."""

BURST_JOB = "agent_pipelines__burst__"
"""Beginning of the name of the job whose runs are a workspace's bursts."""


class BurstSettings(BaseModel):
    """The bursts of each workspace of a project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: int = Field(default=2, ge=1, description="Bursts of a workspace at a time; each is a process.")
    in_flight: int = Field(
        default=100, ge=1, description="Executions at once in all bursts of a workspace together; each burst has its share of it."
    )
    idle: Duration = Field(default=Duration(30), description="A burst without work ends after this time.", examples=["30s"])
    age: Duration = Field(
        default=Duration(600),
        description="After this time a burst takes no further ticks, and ends with what it has begun.",
        examples=["10m"],
    )
    ahead: Duration = Field(
        default=Duration(15), description="A burst is launched so long before something is due.", examples=["15s"]
    )

    @property
    def share(self) -> int:
        """Executions at once in one burst."""
        return max(1, self.in_flight // self.runs)


def burst_job_name(workspace: str) -> str:
    """The job whose runs are the bursts of a workspace."""
    return f"{BURST_JOB}{workspace}"


def lane_sensor_name(workspace: str) -> str:
    """The sensor that shows and switches the bursts of a workspace."""
    return f"{LANE_SENSOR}{workspace}"
