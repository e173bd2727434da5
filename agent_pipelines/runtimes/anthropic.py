"""Endpoints that speak Anthropic's Messages API (https://platform.claude.com/docs/en/api/messages)."""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
from httpx_sse import EventSource
from pydantic import Field, JsonValue, field_validator

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Reasoning, Text, ToolCall, Usage, UsageReport
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Capabilities, Runtime, secret_from_environment
from agent_pipelines.runtimes.excerpt import excerpt
from agent_pipelines.runtimes.http import Http, HttpConfig, failure_of_error, read_json
from agent_pipelines.runtimes.untyped import as_count, as_list, as_mapping, as_text

_PATH = "/v1/messages"
_OURS = ("model", "messages", "stream", "system")
_ANSWER = "answer"  # the tool whose arguments are the structured answer


class AnthropicConfig(HttpConfig):
    """Settings of an endpoint with the Messages API."""

    base_url: str = Field(default="https://api.anthropic.com", description="Address that paths are added to.")
    model: str = Field(min_length=1, description="Name of the model.", examples=["claude-sonnet-4-5"])
    max_tokens: int = Field(default=4_096, ge=1, description="Longest answer; a task may set its own as a parameter.")
    stream: bool = Field(default=True, description="Whether the answer comes in pieces.")
    version: str = Field(default="2023-06-01", description="Version of the API.")
    betas: tuple[str, ...] = Field(default=(), description="Beta features that the endpoint is asked for.")
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further fields of each request.", examples=[{"tools": []}]
    )

    @field_validator("extra_body")
    @classmethod
    def _leaves_our_fields_alone(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in _OURS:
            if name in value:
                raise ValueError(f"`{name}` is set by the adapter; remove it")
        return value


class AnthropicRuntime(Runtime[AnthropicConfig]):
    """A model behind `POST {base_url}/v1/messages`. It keeps no sessions: history is resent."""

    kind = "anthropic"
    config_type = AnthropicConfig
    capabilities = Capabilities(streams=True, reports_usage=True, cancels=True, structured_output=True)

    def __init__(self, config: AnthropicConfig, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(config)
        self.capabilities = self.capabilities.model_copy(update={"streams": config.stream})
        self._http = Http(config, client)

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Create one message."""
        answer = Answer(self.config.model, is_structured=invocation.output_schema is not None)
        body = request_body(self.config, invocation)
        async with self._http.open("POST", _PATH, json=body, headers=self._headers()) as response:
            # Some endpoints ignore `stream`; what came is what the content type says.
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                async with aclosing(EventSource(response).aiter_sse()) as frames:
                    async for frame in frames:
                        for event in answer.take_frame(read_json(frame.data, "the endpoint")):
                            yield event
                        if answer.is_whole:
                            break
            else:
                for event in answer.take(read_json(await response.aread(), "the endpoint")):
                    yield event
        for event in answer.finish():
            yield event

    async def close(self) -> None:
        await self._http.close()

    def _headers(self) -> dict[str, str]:
        key = secret_from_environment(self.config.api_key_env)
        headers = {"anthropic-version": self.config.version}
        if self.config.betas:
            headers["anthropic-beta"] = ",".join(self.config.betas)
        return headers if key is None else headers | {"x-api-key": key.get_secret_value()}


def request_body(config: AnthropicConfig, invocation: Invocation) -> dict[str, Any]:
    """The request for an invocation. Raises RuntimeFailure (invalid_request) if a parameter would replace our fields.

    A schema becomes a tool that the model must call: its arguments are the answer.
    """
    for name in _OURS:
        if name in invocation.parameters:
            raise RuntimeFailure(ErrorClass.INVALID_REQUEST, f"parameter `{name}` is set by the adapter; remove it from the task")
    system = "\n\n".join(message.content for message in invocation.messages if message.role == "system")
    body: dict[str, Any] = {
        "model": config.model,
        "max_tokens": config.max_tokens,
        "messages": [message.model_dump() for message in invocation.messages if message.role != "system"],
    }
    if system:
        body["system"] = system
    if config.stream:
        body["stream"] = True
    body |= config.extra_body | invocation.parameters
    if invocation.output_schema is not None:
        tool = {"name": _ANSWER, "description": "Give the answer.", "input_schema": invocation.output_schema}
        body["tools"] = [*as_list(body.get("tools")), tool]
        # With tools of his own the caller leaves the choice to the model, which ends with this one.
        body.setdefault("tool_choice", {"type": "tool", "name": _ANSWER} if len(body["tools"]) == 1 else {"type": "auto"})
    return body


class Answer:
    """An answer in the making, put together from one whole body or from the events of a stream."""

    def __init__(self, model: str, *, is_structured: bool = False) -> None:
        self.model = model
        self.is_whole = False
        self._is_structured = is_structured
        self._has_begun = False
        self._pieces: list[str] = []
        self._calls: dict[object, dict[str, Any]] = {}
        self._stop_reason: str | None = None
        self._usage: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._pieces)

    def take_frame(self, frame: JsonValue) -> Iterator[AgentEvent]:
        """Add one event of the stream and give what it holds. Raises RuntimeFailure for an error in it."""
        frame = as_mapping(frame)
        match frame.get("type"):
            case "error":
                raise failure_of_error(frame.get("error"), "the endpoint")
            case "message_start":
                self._begin(as_mapping(frame.get("message")))
            case "content_block_start":
                yield from self._block(frame.get("index"), as_mapping(frame.get("content_block")))
            case "content_block_delta":
                yield from self._delta(frame.get("index"), as_mapping(frame.get("delta")))
            case "message_delta":
                self._stop_reason = as_text(as_mapping(frame.get("delta")).get("stop_reason")) or self._stop_reason
                self._usage |= _known(as_mapping(frame.get("usage")))
            case "message_stop":
                self.is_whole = True
            case _:  # pings, ends of blocks, and what is new
                pass

    def take(self, body: JsonValue) -> Iterator[AgentEvent]:
        """Add a whole body and give the events that it holds. Raises RuntimeFailure for an error in it."""
        message = as_mapping(body)
        if message.get("type") == "error":
            raise failure_of_error(message.get("error"), "the endpoint")
        self._begin(message)
        self.is_whole = True
        for index, block in enumerate(map(as_mapping, as_list(message.get("content")))):
            yield from self._block(index, block)

    def finish(self) -> Iterator[AgentEvent]:
        """Give the last events, Final among them. Raises RuntimeFailure if this is no success, after what it cost."""
        failure = self.verdict()
        if self._usage or failure is None:
            yield UsageReport(usage=usage_of(self._usage), model=self.model)
        if failure is not None:
            raise failure
        output: JsonValue = None
        for call in self._calls.values():
            arguments = call["input"] or (_parsed(call["json"]) if call["json"] else {})
            if self._is_structured and call["name"] == _ANSWER:
                output = arguments
            else:
                yield ToolCall(id=call["id"], name=call["name"], arguments=arguments)
        text = self.text
        if output is not None:
            text = json.dumps(output, ensure_ascii=False)
            if not self.text:
                yield Text(text=text)
        yield Final(text=text, output=output, finish_reason=self._stop_reason, model=self.model)

    def verdict(self) -> RuntimeFailure | None:
        """The failure that the answer stands for although it came with status 200; None for a success."""
        if not self._has_begun:
            return RuntimeFailure(ErrorClass.PROTOCOL, "the endpoint answered with no message")
        if not self.is_whole:
            return RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "the stream ended before the answer was complete")
        match self._stop_reason:
            case "refusal":
                return RuntimeFailure(ErrorClass.REFUSED, excerpt(f"the model refused: {self.text}"), code="refusal")
            case "pause_turn":
                return RuntimeFailure(ErrorClass.AGENT, "the model paused its turn before it was done", code="pause_turn")
            case "model_context_window_exceeded":
                problem = "the answer was cut: the context window of the model is full"
                return RuntimeFailure(ErrorClass.INVALID_REQUEST, problem, code="model_context_window_exceeded")
            case _:
                return None

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._has_begun = message.get("type") == "message"
        self.model = as_text(message.get("model")) or self.model
        self._stop_reason = as_text(message.get("stop_reason")) or None
        self._usage |= _known(as_mapping(message.get("usage")))

    def _block(self, index: object, block: Mapping[str, Any]) -> Iterator[AgentEvent]:
        match block.get("type"):
            case "text":
                yield from self._said(as_text(block.get("text")))
            case "thinking":
                if thought := as_text(block.get("thinking")):
                    yield Reasoning(text=thought)
            case "tool_use":
                name, identity = as_text(block.get("name")), as_text(block.get("id"))
                self._calls[index] = {"id": identity, "name": name, "input": as_mapping(block.get("input")), "json": ""}
            case _:  # of the endpoint's own tools
                pass

    def _delta(self, index: object, delta: Mapping[str, Any]) -> Iterator[AgentEvent]:
        match delta.get("type"):
            case "text_delta":
                yield from self._said(as_text(delta.get("text")))
            case "thinking_delta":
                yield Reasoning(text=as_text(delta.get("thinking")))
            case "input_json_delta" if index in self._calls:
                self._calls[index]["json"] += as_text(delta.get("partial_json"))
            case _:
                pass

    def _said(self, text: str) -> Iterator[AgentEvent]:
        if text:
            self._pieces.append(text)
            yield Text(text=text)


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """Normalise the usage of a message; its input tokens exclude what was read from and written to the cache."""
    fresh, written, read = (
        as_count(usage.get(name)) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    )
    return Usage(
        input_tokens=None if fresh is None else fresh + (written or 0) + (read or 0),
        cached_input_tokens=read,
        output_tokens=as_count(usage.get("output_tokens")),
        requests=1,
    )


def _known(usage: Mapping[str, Any]) -> dict[str, Any]:
    # The last report counts, and leaves out what the first has said.
    return {name: value for name, value in usage.items() if value is not None}


def _parsed(text: str) -> JsonValue:
    try:
        return read_json(text, "the model")
    except RuntimeFailure:
        return text
