"""Endpoints that speak OpenAI's chat completions."""

from collections.abc import AsyncGenerator, Iterator
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
from agent_pipelines.runtimes.http import Http, HttpConfig, bearer, failure_of_error, read_json, tries_of
from agent_pipelines.runtimes.untyped import as_count, as_list, as_mapping, as_text

_PATH = "/chat/completions"
_OURS = ("model", "messages", "stream", "n")


class OpenAIConfig(HttpConfig):
    """Settings of an OpenAI-compatible endpoint."""

    model: str = Field(min_length=1, description="Name of the model.", examples=["gpt-5-mini"])
    stream: bool = Field(default=True, description="Whether the answer comes in pieces.")
    organization: str | None = Field(default=None, description="OpenAI organization that the call is billed to.")
    project: str | None = Field(default=None, description="OpenAI project that the call is billed to.")
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further fields of each request.", examples=[{"tools": []}]
    )
    structured_output: bool = Field(
        default=False, description="Whether the endpoint takes a JSON Schema as `response_format`; not all do."
    )

    @field_validator("extra_body")
    @classmethod
    def _leaves_our_fields_alone(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in _OURS:
            if name in value:
                raise ValueError(f"`{name}` is set by the adapter; remove it")
        return value


class OpenAIRuntime(Runtime[OpenAIConfig]):
    """A model or agent behind `POST {base_url}/chat/completions`."""

    kind = "openai"
    config_type = OpenAIConfig
    capabilities = Capabilities(streams=True, reports_usage=True, cancels=True, structured_output=True)

    def __init__(self, config: OpenAIConfig, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(config)
        self.capabilities = Capabilities(
            streams=config.stream, reports_usage=True, cancels=True, structured_output=config.structured_output
        )
        self._http = Http(config, client)

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Send one chat completion."""
        body = request_body(self.config, invocation)
        answer = Answer(self.config.model, parse="response_format" in body)
        async with self._http.open("POST", _PATH, json=body, headers=self._headers()) as response:
            answer.cost_usd = _number(response.headers.get("x-litellm-response-cost"))
            answer.tries = tries_of(response.headers)
            # Some endpoints ignore `stream`; what came is what the content type says.
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                async with aclosing(EventSource(response).aiter_sse()) as frames:
                    async for frame in frames:
                        if frame.data == "[DONE]":
                            answer.is_whole = True
                            break
                        for event in answer.take_frame(frame.event, frame.data):
                            yield event
            else:
                answer.is_whole = True
                for event in answer.take(read_json(await response.aread(), "the endpoint")):
                    yield event
        for event in answer.finish():
            yield event

    async def close(self) -> None:
        await self._http.close()

    def _headers(self) -> dict[str, str]:
        named = {"OpenAI-Organization": self.config.organization, "OpenAI-Project": self.config.project}
        return bearer(secret_from_environment(self.config.api_key_env)) | {k: v for k, v in named.items() if v is not None}


def request_body(config: OpenAIConfig, invocation: Invocation) -> dict[str, Any]:
    """The request for an invocation. Raises RuntimeFailure (invalid_request) if a parameter would replace our fields."""
    for name in _OURS:
        if name in invocation.parameters:
            raise RuntimeFailure(ErrorClass.INVALID_REQUEST, f"parameter `{name}` is set by the adapter; remove it from the task")
    body: dict[str, Any] = {"model": config.model, "messages": [message.model_dump() for message in invocation.messages]}
    if config.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if config.structured_output and invocation.output_schema is not None:
        schema = {"name": invocation.task[:64], "schema": invocation.output_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body | config.extra_body | invocation.parameters


class Answer:
    """An answer in the making, put together from one whole body or from the chunks of a stream."""

    def __init__(self, model: str, *, parse: bool = False) -> None:
        self.model = model
        self.parse = parse
        self.is_whole = False  # nothing more is to come: a whole body, or [DONE]
        self.cost_usd: float | None = None
        self.tries = 1
        self._has_choice = False
        self._pieces: list[str] = []
        self._refusal = ""
        self._finish_reason: str | None = None
        self._calls: list[dict[str, str]] = []
        self._slots: dict[object, dict[str, str]] = {}
        self._usage: dict[str, Any] | None = None
        self._hermes: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._pieces)

    def take_frame(self, name: str, data: str) -> Iterator[AgentEvent]:
        """Add one server-sent event and give the events that it holds."""
        chunk = read_json(data, "the endpoint")
        if name == "error":
            raise failure_of_error(chunk.get("error", chunk) if isinstance(chunk, dict) else chunk, "the endpoint")
        return self.take(chunk)

    def take(self, body: JsonValue) -> Iterator[AgentEvent]:
        """Add a body or chunk and give the events that it holds. Raises RuntimeFailure for an error in it."""
        if not isinstance(body, dict):
            raise RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"the endpoint answered with no chat completion: {body}"))
        if body.get("error"):
            raise failure_of_error(body["error"], "the endpoint")
        self.model = as_text(body.get("model")) or self.model
        self._usage = as_mapping(body.get("usage")) or self._usage
        self._hermes = as_mapping(body.get("hermes")) or self._hermes
        for choice in map(as_mapping, as_list(body.get("choices"))):
            self._has_choice = True
            self._finish_reason = as_text(choice.get("finish_reason")) or self._finish_reason
            message = as_mapping(choice.get("delta")) or as_mapping(choice.get("message"))
            self._refusal += as_text(message.get("refusal"))
            self._take_calls(as_list(message.get("tool_calls")))
            if thought := as_text(message.get("reasoning_content")) or as_text(message.get("reasoning")):
                yield Reasoning(text=thought)
            if text := _plain(message.get("content")):
                self._pieces.append(text)
                yield Text(text=text)

    def _take_calls(self, pieces: list[Any]) -> None:
        for position, piece in enumerate(map(as_mapping, pieces)):
            slot = piece.get("index", position)
            call = self._slots.get(slot)
            identity = as_text(piece.get("id"))
            # Some endpoints number every call 0; a new id is a new call.
            if call is None or (identity and call["id"] and identity != call["id"]):
                call = self._slots[slot] = {"id": "", "name": "", "arguments": ""}
                self._calls.append(call)
            function = as_mapping(piece.get("function"))
            call["id"] = call["id"] or identity
            call["name"] = call["name"] or as_text(function.get("name"))
            call["arguments"] += as_text(function.get("arguments"))

    def finish(self) -> Iterator[AgentEvent]:
        """Give the last events, Final among them. Raises RuntimeFailure if this is no success, after what it cost."""
        failure = self.verdict()
        if self._usage is not None or self.cost_usd is not None or failure is None:
            yield UsageReport(usage=usage_of(self._usage or {}, self.cost_usd), model=self.model)
        if failure is not None:
            raise failure
        for call in self._calls:
            yield ToolCall(id=call["id"], name=call["name"], arguments=_arguments(call["arguments"]))
        yield Final(
            text=self.text,
            output=_parsed(self.text) if self.parse else None,
            finish_reason=self._finish_reason,
            model=self.model,
            tries=self.tries,
        )

    def verdict(self) -> RuntimeFailure | None:
        """The failure that the answer stands for although it came with status 200; None for a success."""
        if self._hermes.get("failed"):
            message = as_text(self._hermes.get("error")) or self.text
            code = as_text(self._hermes.get("error_code")) or None
            return RuntimeFailure(ErrorClass.AGENT, excerpt(f"the agent failed: {message}"), code=code)
        if self._finish_reason == "error":
            return RuntimeFailure(ErrorClass.AGENT, excerpt(f"the agent failed: {self.text}"))
        if self._refusal:
            return RuntimeFailure(ErrorClass.REFUSED, excerpt(f"the model refused: {self._refusal}"))
        if self._finish_reason == "content_filter":
            return RuntimeFailure(ErrorClass.REFUSED, "a content filter ended the answer", code="content_filter")
        if not self.is_whole and self._finish_reason is None:
            return RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "the stream ended before the answer was complete")
        if not self._has_choice:
            return RuntimeFailure(ErrorClass.PROTOCOL, "the endpoint answered without a choice")
        return None


def usage_of(usage: dict[str, Any], cost_usd: float | None = None) -> Usage:
    """Normalise the usage of a chat completion; its prompt tokens include cached ones, its completion tokens reasoning."""
    return Usage(
        input_tokens=as_count(usage.get("prompt_tokens")),
        cached_input_tokens=as_count(as_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
        output_tokens=as_count(usage.get("completion_tokens")),
        reasoning_tokens=as_count(as_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
        requests=1,
        cost_usd=cost_usd,
    )


def _plain(content: object) -> str:
    if isinstance(content, list):
        return "".join(as_text(as_mapping(part).get("text")) for part in content)
    return as_text(content)


def _arguments(text: str) -> JsonValue:
    return None if not text else _parsed(text, otherwise=text)


def _parsed(text: str, otherwise: JsonValue = None) -> JsonValue:
    try:
        return read_json(text, "the model")
    except RuntimeFailure:
        return otherwise


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
