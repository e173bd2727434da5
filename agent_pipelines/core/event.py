"""What an agent does while it works, as small typed events."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter


class Usage(BaseModel):
    """Tokens and money that an agent spent; None means that the runtime did not say.

    Normalised: `input_tokens` includes cached input, `output_tokens` includes reasoning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    requests: int | None = None
    cost_usd: float | None = None

    @property
    def total_tokens(self) -> int | None:
        """Input plus output, None if neither is known."""
        return _sum(self.input_tokens, self.output_tokens)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=_sum(self.input_tokens, other.input_tokens),
            cached_input_tokens=_sum(self.cached_input_tokens, other.cached_input_tokens),
            output_tokens=_sum(self.output_tokens, other.output_tokens),
            reasoning_tokens=_sum(self.reasoning_tokens, other.reasoning_tokens),
            requests=_sum(self.requests, other.requests),
            cost_usd=_sum(self.cost_usd, other.cost_usd),
        )


_Number = TypeVar("_Number", int, float)


def _sum(left: _Number | None, right: _Number | None) -> _Number | None:
    if left is None:
        return right
    return left if right is None else left + right


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Event):
    """A piece of the answer, in order."""

    kind: Literal["text"] = "text"
    text: str


class Reasoning(_Event):
    """A piece of the thinking that a runtime exposes."""

    kind: Literal["reasoning"] = "reasoning"
    text: str


class ToolCall(_Event):
    """The agent asked for a tool."""

    kind: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: JsonValue = None


class ToolResult(_Event):
    """What a tool gave back."""

    kind: Literal["tool_result"] = "tool_result"
    id: str
    name: str
    output: JsonValue = None
    is_error: bool = False


class UsageReport(_Event):
    """What was spent since the last report; reports of one attempt add up."""

    kind: Literal["usage"] = "usage"
    usage: Usage
    model: str | None = None


class Checkpoint(_Event):
    """A point from which the agent can go on; `data` is what it needs for that."""

    kind: Literal["checkpoint"] = "checkpoint"
    name: str
    data: JsonValue = None


class Handle(_Event):
    """The runtime's own name of the work, with which it can be cancelled.

    With `poll_after`, in seconds, it can also be polled: a stream that ends without a `Final` after it has handed its work over,
    which goes on there and is asked after that time for the first time.
    """

    kind: Literal["handle"] = "handle"
    id: str
    data: JsonValue = None
    poll_after: float | None = None


class Question(_Event):
    """The agent asks people: their answer decides how the attempt ends, whatever its stream ends with.

    With a `draft` the answers are `approve`, `edit` (its data replaces the draft) and `reject`. Without one the answer is the
    agent's result; `options` are the allowed ones, without any every text is.
    """

    kind: Literal["question"] = "question"
    text: str
    options: tuple[str, ...] = ()
    context: dict[str, JsonValue] = {}
    draft: JsonValue = None


class Final(_Event):
    """The end of a successful attempt: the whole answer, once, as the last event.

    `output` is the structured answer where the runtime gives one; `session_id` is the runtime's own session; `tries` is how
    often the runtime itself has tried.
    """

    kind: Literal["final"] = "final"
    text: str = ""
    output: JsonValue = None
    finish_reason: str | None = None
    model: str | None = None
    session_id: str | None = None
    tries: int = 1


AgentEvent = Annotated[
    Text | Reasoning | ToolCall | ToolResult | UsageReport | Checkpoint | Handle | Question | Final, Field(discriminator="kind")
]
"""Any of the events; attribute names on spans follow the OpenTelemetry GenAI conventions."""

event_adapter: TypeAdapter[AgentEvent] = TypeAdapter(AgentEvent)
"""Reads an event back from its JSON form."""
