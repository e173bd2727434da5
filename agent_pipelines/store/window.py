"""Which rows of a task's table are looked at together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.store.conditions import equal, within


@dataclass(frozen=True)
class Window:
    """The rows of a workspace, of an application or of one task, in a stretch of time: `since` is in it, `until` is not."""

    workspace: str = "default"
    application: str | None = None
    task: str | None = None
    since: Microseconds | None = None
    until: Microseconds | None = None

    def of(self, table: sa.Table, at: sa.ColumnElement[Any]) -> Sequence[sa.ColumnElement[bool]]:
        """The condition, of a table that has the columns of a task, for the instants of a column."""
        c = table.c
        of_task = equal({c.workspace: self.workspace, c.application: self.application, c.task: self.task})
        return [*of_task, *within(at, self.since, self.until)]
