"""When a node that fails is left alone, and for how long."""

from pydantic import BaseModel, ConfigDict, Field

from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass

SPEAKS_OF_NODE = frozenset(
    {ErrorClass.CONNECTION, ErrorClass.SERVER, ErrorClass.OVERLOADED, ErrorClass.TIMEOUT, ErrorClass.UNKNOWN_OUTCOME}
)
"""Error classes that say something of the node and not only of the request."""


class BreakerSpec(BaseModel):
    """The circuit breaker of each node of an agent: closed, open after failures, half-open while one attempt tries it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failures: int = Field(default=5, ge=1, description="Failures within the window that open it.")
    window: Duration = Field(default=Duration(60), description="How long a failure counts.", examples=["1m"])
    pause: Duration = Field(default=Duration(5), description="Wait before the first attempt that tries the node again.")
    factor: float = Field(default=2.0, ge=1, description="Growth of the wait each time that the node fails again.")
    max_pause: Duration = Field(default=Duration(60), description="Longest wait.")

    def pause_after(self, openings: int) -> int:
        """The wait after so many openings in a row, in microseconds."""
        return round(min(self.pause * self.factor ** min(openings - 1, 64), self.max_pause) * 1_000_000)
