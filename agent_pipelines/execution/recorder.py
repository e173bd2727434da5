"""Turning the events of an attempt into journal entries and spans."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pydantic import BaseModel

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.event import (
    AgentEvent,
    Checkpoint,
    Final,
    Handle,
    Question,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    UsageReport,
)
from agent_pipelines.ledger.journal import Entry, Journal, NumberTaken
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.ledger.spans import Trace
from agent_pipelines.store.database import Connection, Database

_FLUSH = 4_096  # characters of text that make an entry of their own


class KeepsHandle(Protocol):
    """Keeps a handle that can be polled."""

    def __call__(self, connection: Connection, handle: Handle) -> None: ...


@dataclass
class _Buffer:
    kind: str = ""
    text: str = ""

    def cut(self) -> int:
        """Where a long text is cut: between words, because half of a secret would not be recognised."""
        between = max(self.text.rfind(" "), self.text.rfind("\n")) + 1
        if between or len(self.text) < 2 * _FLUSH:
            return between
        # One endless word: what is whole of its secrets is replaced now, what is not lies in its end.
        self.text = recordable_text(self.text)
        return max(0, len(self.text) - _FLUSH)


@dataclass
class Recorder:
    """Writes what one attempt does to the journal, text in larger pieces, everything else at once."""

    database: Database
    journal: Journal
    clock: Clock
    trace: Trace
    execution_id: str
    attempt: int
    span_id: str
    seq: int
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    handle: str | None = None
    checkpoint: Checkpoint | None = None
    on_handle: KeepsHandle | None = None
    """Works in the transaction of the handle's entry."""
    poll_after: float | None = None
    question: Question | None = None
    final: Final | None = None
    _waiting: list[Entry] = field(default_factory=list[Entry])
    _buffer: _Buffer = field(default_factory=_Buffer)
    _calls: dict[str, tuple[ToolCall, Microseconds]] = field(default_factory=dict[str, tuple[ToolCall, Microseconds]])

    async def record(self, event: AgentEvent) -> None:
        """Record an event; returns when it is durable, or buffered if it is a piece of text."""
        match event:
            case Text() | Reasoning():
                await self._text(event)
                return
            case UsageReport():
                self.usage += event.usage
                self.model = event.model or self.model
                # Written with what follows; the attempt's own row has the sum.
                self._waiting = [*self._drain(), self._entry(event.kind, event.model_dump(mode="json", exclude={"kind"}))]
                return
            case ToolCall():
                self._calls[event.id] = (event, self.clock.now())
            case ToolResult():
                self._tool_span(event)
            case Handle():
                self.handle = event.id
                self.poll_after = event.poll_after
            case Checkpoint():
                self.checkpoint = event
            case Question():
                self.question = event
            case Final():
                self.model = event.model or self.model
                self.final = event.model_copy(update={"text": recordable_text(event.text), "output": recordable(event.output)})
        entries = self._drain()
        # The whole answer stands in the execution's row; the journal keeps how it ended.
        body = event.model_dump(mode="json", exclude={"kind"} | ({"text", "output"} if isinstance(event, Final) else set()))
        entries.append(self._entry(event.kind, body))
        along = None
        if isinstance(event, Handle) and event.poll_after is not None and self.on_handle is not None:
            along = partial(self.on_handle, handle=event)
        await self._append(entries, along)

    async def finish(self) -> None:
        """Record what is still buffered."""
        await self._append(self._drain())

    async def _text(self, event: Text | Reasoning) -> None:
        entries: list[Entry] = []
        if self._buffer.kind != event.kind:
            entries = self._drain()
            self._buffer = _Buffer(event.kind)
        self._buffer.text += event.text
        if len(self._buffer.text) >= _FLUSH:
            entries += self._drain(self._buffer.cut())
        await self._append(entries)

    def _drain(self, cut: int | None = None) -> list[Entry]:
        waiting, self._waiting = self._waiting, []
        cut = len(self._buffer.text) if cut is None else cut
        piece, self._buffer.text = self._buffer.text[:cut], self._buffer.text[cut:]
        return [*waiting, self._entry(self._buffer.kind, {"text": piece})] if piece else waiting

    def _entry(self, kind: str, body: object) -> Entry:
        self.seq += 1
        recorded = recordable(body.model_dump(mode="json") if isinstance(body, BaseModel) else body)
        assert isinstance(recorded, dict)
        return Entry(seq=self.seq, attempt=self.attempt, at=self.clock.now(), kind=kind, body=recorded)

    async def _append(self, entries: list[Entry], along: Callable[[Connection], None] | None = None) -> None:
        def append(connection: Connection, added: list[Entry]) -> None:
            self.journal.append(connection, self.execution_id, added)
            if along is not None:
                along(connection)

        while entries:
            try:
                await self.database.write(lambda connection, added=entries: append(connection, added))
                return
            except NumberTaken:  # a second run of the same work has been noted meanwhile
                entries = await self._renumbered(entries)

    async def _renumbered(self, entries: list[Entry]) -> list[Entry]:
        last = await self.database.read(lambda connection: self.journal.last_seq(connection, self.execution_id))
        shift = last + 1 - entries[0].seq
        self.seq += shift
        self._waiting = [entry.model_copy(update={"seq": entry.seq + shift}) for entry in self._waiting]
        return [entry.model_copy(update={"seq": entry.seq + shift}) for entry in entries]

    def _tool_span(self, result: ToolResult) -> None:
        call, started_at = self._calls.pop(result.id, (None, self.clock.now()))
        self.trace.add(
            f"execute_tool {result.name}",
            started_at,
            self.clock.now(),
            parent_id=self.span_id,
            error="tool_error" if result.is_error else None,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": call.name if call else result.name,
                "gen_ai.tool.call.id": result.id,
            },
        )
