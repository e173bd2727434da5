"""What the items of a batch came to."""

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.execution import Status
from agent_pipelines.store.conditions import equal
from agent_pipelines.store.tables import executions


class ItemResult(BaseModel):
    """What became of one item: its position and key, and the execution that worked on it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    position: int
    item: str
    execution_id: str
    status: Status
    text: str | None
    output: JsonValue
    attempts: int
    cost_usd: float | None
    error_class: str | None
    error_message: str | None

    @property
    def value(self) -> JsonValue:
        """The structured output, or the text of a task that wants none."""
        return self.text if self.output is None else self.output


_COLUMNS = [
    executions.c.id.label("execution_id"),
    *(executions.c[name] for name in ItemResult.model_fields if name != "execution_id"),
]


class BatchResults:
    """Reads the executions of batches as results. All methods take part in the caller's transaction."""

    def page(
        self, connection: sa.Connection, batch_id: str, *, status: Status | None = None, after: int = -1, limit: int = 500
    ) -> Sequence[ItemResult]:
        """Results after a position, in order; all, or those of one status: `failed` are the poison items."""
        c = executions.c
        query = sa.select(*_COLUMNS).where(c.batch_id == batch_id, c.position > after)
        query = query.where(*equal({c.status: None if status is None else str(status)})).order_by(c.position).limit(limit)
        return [ItemResult.model_validate(row) for row in connection.execute(query).mappings()]
