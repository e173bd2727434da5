"""Where the time of an execution went: one tree of spans each."""

import random
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.store.bulk import insert_missing
from agent_pipelines.store.insertion import insert_all
from agent_pipelines.store.tables import spans


class Span(BaseModel):
    """One stretch of work; attribute names follow the OpenTelemetry GenAI semantic conventions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    span_id: str
    trace_id: str
    parent_id: str | None
    name: str
    started_at: Microseconds
    finished_at: Microseconds
    status: Literal["ok", "error"] = "ok"
    attributes: dict[str, JsonValue]


def new_trace_id() -> str:
    """A random trace id (W3C Trace Context: 16 bytes in hexadecimal)."""
    return f"{random.getrandbits(128):032x}"


def new_span_id() -> str:
    """A random span id (W3C Trace Context: 8 bytes in hexadecimal)."""
    return f"{random.getrandbits(64):016x}"


class Trace:
    """Collects the spans of one execution until they are recorded."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.root_id = new_span_id()
        self.spans: list[Span] = []

    def copy(self) -> "Trace":
        """The same trace, to which spans can be added apart."""
        copied = copy(self)
        copied.spans = list(self.spans)
        return copied

    def add(
        self,
        name: str,
        started_at: Microseconds,
        finished_at: Microseconds,
        *,
        span_id: str | None = None,
        parent_id: str | None = None,
        error: str | None = None,
        attributes: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Add a finished span; without a parent it belongs to the root."""
        own_id = span_id or new_span_id()
        known: dict[str, JsonValue] = {key: value for key, value in (attributes or {}).items() if value is not None}
        if error is not None:
            known["error.type"] = error
        self.spans.append(
            Span(
                span_id=own_id,
                trace_id=self.trace_id,
                parent_id=parent_id or (None if own_id == self.root_id else self.root_id),
                name=name,
                started_at=started_at,
                finished_at=max(started_at, finished_at),
                status="ok" if error is None else "error",
                attributes=known,
            )
        )


class Spans:
    """Writes and reads spans. All methods take part in the caller's transaction."""

    def append(self, connection: sa.Connection, execution_id: str, new: Sequence[Span]) -> None:
        """Record finished spans."""
        insert_all(connection, spans, [{"execution_id": execution_id, **span.model_dump()} for span in new])

    def append_many(self, connection: sa.Connection, new: Sequence[tuple[str, Span]]) -> None:
        """Record finished spans of several executions."""
        insert_missing(connection, spans, [{"execution_id": of, **vars(span)} for of, span in new])

    def read(self, connection: sa.Connection, execution_id: str) -> Sequence[Span]:
        """The spans of an execution by their start."""
        query = (
            sa.select(spans).where(spans.c.execution_id == execution_id).order_by(spans.c.started_at, spans.c.finished_at.desc())
        )
        return [Span.model_validate(row) for row in connection.execute(query).mappings()]
