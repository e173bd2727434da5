"""How the output of a command becomes events: declared by paths and rules, applied here."""

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import from_json

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Reasoning, Text, ToolCall, ToolResult, Usage, UsageReport

Paths = str | tuple[str, ...]
"""Keys of nested objects joined by dots, a number for the item of a list; several paths to numbers are added up."""

_COUNTS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "requests")
_SPENT = (*_COUNTS, "cost_usd")


class Fields(BaseModel):
    """Where in a JSON object the parts of an event are, as dotted paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = Field(default=None, description="The text, or the whole answer.", examples=["item.text"])
    output: str | None = Field(default=None, description="The structured answer, or the result of a tool.")
    session_id: str | None = Field(default=None, description="The runtime's own session.", examples=["thread_id"])
    model: str | None = Field(default=None, description="Name of the model.")
    finish_reason: str | None = Field(default=None, description="Why the agent ended.", examples=["stop_reason"])
    is_error: str | None = Field(default=None, description="A value that is true for a failure.", examples=["is_error"])
    message: str | None = Field(default=None, description="What went wrong.", examples=["error.message"])
    id: str | None = Field(default=None, description="Identifier of a tool call.")
    name: str | None = Field(default=None, description="Name of a tool.")
    arguments: str | None = Field(default=None, description="Arguments of a tool call.")
    input_tokens: Paths | None = Field(
        default=None,
        description="Input tokens, cached ones included; several paths are added up.",
        examples=[["usage.input_tokens", "usage.cache_read_input_tokens"]],
    )
    cached_input_tokens: Paths | None = Field(default=None, description="Input tokens that came from a cache.")
    output_tokens: Paths | None = Field(default=None, description="Output tokens, reasoning included.")
    reasoning_tokens: Paths | None = Field(default=None, description="Output tokens spent on reasoning.")
    requests: Paths | None = Field(default=None, description="Number of requests to a model.", examples=["num_turns"])
    cost_usd: Paths | None = Field(default=None, description="Cost in US dollars.", examples=["total_cost_usd"])

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the fields that have a path."""
        return tuple(name for name in Fields.model_fields if getattr(self, name) is not None)

    def of(self, value: JsonValue, name: str) -> JsonValue:
        """The value that a field has in an object, None if it has none."""
        path = getattr(self, name)
        return None if path is None else at(value, path)

    def usage(self, value: JsonValue) -> Usage | None:
        """What was spent according to an object, None if it does not say."""
        found = {name: _sum(value, getattr(self, name)) for name in _SPENT}
        if all(amount is None for amount in found.values()):
            return None
        return Usage.model_validate({name: int(n) if n is not None and name in _COUNTS else n for name, n in found.items()})


_EVENT_FIELDS = {
    "text": {"text"},
    "reasoning": {"text"},
    "tool_call": {"id", "name", "arguments"},
    "tool_result": {"id", "name", "output", "is_error"},
    "session": {"session_id", "model"},
    "usage": {"model", *_SPENT},
    "final": {"text", "output", "session_id", "model", "finish_reason", "is_error", "message", *_SPENT},
    "error": {"message"},
}


class EventRule(Fields):
    """Which lines of a JSON Lines output become which event."""

    match: dict[str, JsonValue] = Field(
        description="Paths and the values that a line must have there.", examples=[{"type": "item.completed"}]
    )
    each: str | None = Field(
        default=None,
        description="Path of a list in the line; the rule then reads each of its items in place of the line.",
        examples=["message.content"],
    )
    where: dict[str, JsonValue] = Field(default_factory=dict, description="Paths and values that an item must have.")
    event: Literal["text", "reasoning", "tool_call", "tool_result", "session", "usage", "final", "error"] = Field(
        description="What it becomes; `session` only tells the session, `error` fails the attempt."
    )
    error_class: ErrorClass = Field(default=ErrorClass.AGENT, description="Class of the failure, with `error`.")

    @model_validator(mode="after")
    def _only_fields_of_the_event(self) -> "EventRule":
        for name in self.declared:
            if name not in _EVENT_FIELDS[self.event]:
                fitting = ", ".join(sorted(_EVENT_FIELDS[self.event]))
                raise ValueError(f"`{name}` is no field of the event {self.event!r}; its fields are {fitting}")
        if self.where and self.each is None:
            raise ValueError("`where` is about the items of `each`; use `match` for the line, or name the list in `each`")
        return self

    def objects(self, line: JsonValue) -> Iterator[JsonValue]:
        """The objects in a line that this rule is about."""
        if not fits(line, self.match):
            return
        if self.each is None:
            yield line
            return
        items = at(line, self.each)
        yield from (item for item in items if fits(item, self.where)) if isinstance(items, list) else ()


class OutputConfig(BaseModel):
    """How to read the output of a command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Literal["text", "json", "jsonl"] = Field(
        default="text", description="`text`: stdout is the answer; `json`: one document; `jsonl`: one JSON object a line."
    )
    result: Fields = Field(default=Fields(), description="Where the parts of the result are in the document, with `json`.")
    events: tuple[EventRule, ...] = Field(default=(), description="What the lines mean, with `jsonl`; all that match apply.")
    answer: Literal["all", "last"] = Field(
        default="all",
        description="Whether all texts of `jsonl` make up the answer, or the last; earlier ones then count as reasoning.",
    )
    cumulative_usage: bool = Field(
        default=False, description="Whether a resumed session counts from its beginning; its usage is then left unknown."
    )
    max_output: int = Field(default=16_777_216, ge=1, description="Most bytes of output that are kept in memory.")

    @model_validator(mode="after")
    def _parts_fit_the_format(self) -> "OutputConfig":
        if (self.output == "jsonl") != bool(self.events):
            raise ValueError("`events` goes with `output: jsonl`, and that needs it")
        if self.output != "json" and self.result.declared:
            raise ValueError(f"`result` goes with `output: json`; with {self.output!r} remove it")
        if self.answer == "last" and self.output != "jsonl":
            raise ValueError("`answer: last` goes with `output: jsonl`; remove it")
        if misplaced := set(self.result.declared) - _EVENT_FIELDS["final"]:
            raise ValueError(f"`result.{min(misplaced)}` is no field of a result; remove it")
        return self


class OutputReader:
    """Reads the output of one command run."""

    def __init__(self, spec: OutputConfig, *, resumes: bool = False) -> None:
        self.failure: RuntimeFailure | None = None
        """What the output itself reports as failed, or why it cannot be read."""
        self._spec = spec
        self._counts = not (spec.cumulative_usage and resumes)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._kept: list[bytes] = []
        self._size = 0  # of what is kept
        self._noise = b""
        self._pieces: list[str] = []
        self._held = ""  # of text: line ends that may be the last; with `answer: last`: the last text so far
        self._final: dict[str, JsonValue] | None = None
        self._told: dict[str, JsonValue] = {}
        self._lines = 0
        self._needs_final = any(rule.event == "final" for rule in spec.events)

    def feed(self, piece: bytes) -> Iterator[AgentEvent]:
        """Read a piece of stdout. Raises RuntimeFailure (protocol) if it is more than may be kept."""
        self._size += len(piece)
        if self._spec.output == "text":
            yield from self._say(self._decoder.decode(piece))
        elif self._spec.output == "jsonl" and b"\n" in piece:
            lines = b"".join([*self._kept, piece]).split(b"\n")
            self._kept = [lines.pop()]
            for line in lines:
                self._size -= len(line) + 1
                yield from self._read_line(line)
        else:
            self._kept.append(piece)
        if self._size > self._spec.max_output:
            problem = f"the output is larger than {self._spec.max_output} bytes"
            raise RuntimeFailure(ErrorClass.PROTOCOL, f"{problem}; raise `max_output`, or let the command write less")

    def close(self) -> Iterator[AgentEvent]:
        """Read what is left when stdout has ended."""
        rest = b"".join(self._kept)
        self._kept = []
        if self._spec.output == "text":
            yield from self._say(self._decoder.decode(b"", final=True))
        elif self._spec.output == "jsonl":
            yield from self._read_line(rest)
            if self.failure is None and not (self._final is not None if self._needs_final else self._lines):
                wanted = "that a `final` rule matches" if self._needs_final else "of JSON"
                self._fail(ErrorClass.PROTOCOL, f"the output has no line {wanted}")
        else:
            yield from self._read_document(rest)

    def finish(self) -> Iterator[AgentEvent]:
        """Give the last events of a run that succeeded."""
        final = self._told | (self._final or {})
        output = final.get("output")
        mapped = _text(final.get("text")) or _text(output) or ""
        if self._spec.answer == "last":
            answer = mapped or self._held
            if self._held and self._held != answer:
                yield Reasoning(text=self._held)
            self._pieces = [answer]
            if answer:
                yield Text(text=answer)
        elif not self._pieces and mapped:
            self._pieces = [mapped]
            yield Text(text=mapped)
        yield Final(
            text="".join(self._pieces),
            output=output,
            finish_reason=_text(final.get("finish_reason")),
            model=_text(final.get("model")),
            session_id=_text(final.get("session_id")),
        )

    @property
    def heard(self) -> str:
        """What the command said that became no event, or else its text; for an error message."""
        return (self._noise or b"".join(self._kept)).decode(errors="replace") or "".join(self._pieces)

    def _say(self, text: str) -> Iterator[AgentEvent]:
        text = self._held + text
        said = text.rstrip("\r\n")
        self._held = text[len(said) :]
        if said:
            self._pieces.append(said)
            yield Text(text=said)

    def _read_document(self, raw: bytes) -> Iterator[AgentEvent]:
        try:
            document = from_json(raw)
        except ValueError:
            self._noise = raw
            self._fail(ErrorClass.PROTOCOL, "the output is not a JSON document")
            return
        if self._spec.result.declared:
            yield from self._read_final(self._spec.result, document)
        else:
            self._final = {"text": raw.decode().strip(), "output": document}

    def _read_line(self, line: bytes) -> Iterator[AgentEvent]:
        try:
            parsed = from_json(line)
        except ValueError:
            if line.strip():
                self._noise = line
            if line.startswith(b"{"):
                self._fail(ErrorClass.PROTOCOL, "a line of the output is not JSON")
            return  # else a warning: commands print them between their events
        self._lines += 1
        for rule in self._spec.events:
            for found in rule.objects(parsed):
                yield from self._apply(rule, found)

    def _apply(self, rule: EventRule, found: JsonValue) -> Iterator[AgentEvent]:
        match rule.event:
            case "text":
                yield from self._hear(_text(rule.of(found, "text")) or "")
            case "reasoning":
                if thought := _text(rule.of(found, "text")):
                    yield Reasoning(text=thought)
            case "tool_call":
                yield ToolCall(
                    id=_text(rule.of(found, "id")) or "",
                    name=_text(rule.of(found, "name")) or "",
                    arguments=rule.of(found, "arguments"),
                )
            case "tool_result":
                yield ToolResult(
                    id=_text(rule.of(found, "id")) or "",
                    name=_text(rule.of(found, "name")) or "",
                    output=rule.of(found, "output"),
                    is_error=bool(rule.of(found, "is_error")),
                )
            case "session":
                self._told |= {name: value for name in rule.declared if (value := rule.of(found, name)) is not None}
            case "usage":
                yield from self._spend(rule, found)
            case "final":
                yield from self._read_final(rule, found)
            case "error":
                self._fail(rule.error_class, _text(rule.of(found, "message")) or "no reason given")

    def _hear(self, text: str) -> Iterator[AgentEvent]:
        if not text:
            return
        if self._spec.answer == "all":
            self._size += len(text)
            self._pieces.append(text)
            yield Text(text=text)
            return
        if self._held:
            yield Reasoning(text=self._held)
        self._held = text

    def _read_final(self, fields: Fields, found: JsonValue) -> Iterator[AgentEvent]:
        yield from self._spend(fields, found)
        if fields.of(found, "is_error"):
            reason = fields.of(found, "message") or fields.of(found, "text")
            self._fail(ErrorClass.AGENT, _text(reason) or "no reason given")
        parts = ("text", "output", "session_id", "model", "finish_reason")
        self._final = {name: value for name in parts if (value := fields.of(found, name)) is not None}

    def _spend(self, fields: Fields, found: JsonValue) -> Iterator[AgentEvent]:
        usage = fields.usage(found)
        if usage is not None and self._counts:
            yield UsageReport(usage=usage, model=_text(fields.of(found, "model")))

    def _fail(self, error_class: ErrorClass, message: str) -> None:
        self.failure = self.failure or RuntimeFailure(error_class, message)


def at(value: JsonValue, path: str) -> JsonValue:
    """The value at a dotted path, None if there is none."""
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def fits(value: JsonValue, wanted: Mapping[str, JsonValue]) -> bool:
    """Whether a value has the wanted values at their paths."""
    return all(at(value, path) == expected for path, expected in wanted.items())


def _sum(value: JsonValue, paths: Paths | None) -> float | None:
    if paths is None:
        return None
    found = [at(value, path) for path in ((paths,) if isinstance(paths, str) else paths)]
    numbers = [number for number in found if isinstance(number, int | float) and not isinstance(number, bool)]
    return sum(numbers) if numbers else None


def _text(value: JsonValue) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
