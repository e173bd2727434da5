"""Agents behind any HTTP interface: what is sent and where the parts of an answer are is declared, not programmed."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from agent_pipelines.core.clock import SystemClock, isoformat
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Handle, Text, UsageReport
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Capabilities, Finished, Progress, Runtime, StillRunning, secret_from_environment
from agent_pipelines.runtimes.command_output import Fields, at
from agent_pipelines.runtimes.excerpt import excerpt
from agent_pipelines.runtimes.http import Http, HttpConfig, bearer, read_json, retry_after

_OF_INVOCATION = (
    *("prompt", "system", "messages", "session_id", "remote_session_id", "idempotency_key", "task", "application"),
    *("logical_time", "output_schema", "parameters", "variables", "callback_url", "callback_token"),
)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_SINGLE = 20  # handles of one poll where each is asked for by itself
_SINGLE_AT_ONCE = 10


class Call(BaseModel):
    """One request. Path and body may hold placeholders; a text that is nothing but one becomes its value, whatever that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    path: str = Field(pattern="^/", description="Path below `base_url`.", examples=["/runs/{handle}"])
    body: JsonValue = Field(default=None, description="JSON body.", examples=[{"input": "{prompt}"}])

    def placeholders(self) -> Iterator[str]:
        """The names that it uses."""
        yield from _PLACEHOLDER.findall(self.path)
        yield from _placeholders(self.body)

    def filled(self, values: Mapping[str, JsonValue]) -> tuple[str, JsonValue]:
        """Path and body for values; in the path they are quoted."""
        path = _PLACEHOLDER.sub(lambda found: quote(_text(values[found[1]]), safe=""), self.path)
        return path, _filled(self.body, values)


class PollMany(Call):
    """A request that asks about many works at once: `{handles}` is the list of them."""

    items: str = Field(description="Path of the list in the answer.", examples=["runs"])
    handle: str = Field(description="Path of the handle in an item.", examples=["id"])


class HttpAgentConfig(HttpConfig):
    """Settings of an agent behind an HTTP interface.

    With `handle` and `poll` the work goes on there after the first answer, and is asked after. Paths are keys joined by dots.
    """

    start: Call = Field(description="The request that begins the work.", examples=[{"path": "/runs", "body": {"q": "{prompt}"}}])
    result: Fields = Field(description="Where the parts of the result are in an answer.", examples=[{"text": "output.text"}])
    handle: str | None = Field(default=None, description="Path of the handle in the answer to `start`.", examples=["id"])
    status: str | None = Field(default=None, description="Path of the word that says how the work stands.", examples=["status"])
    running: tuple[str, ...] = Field(default=(), description="Words of work that goes on.", examples=[["queued", "running"]])
    succeeded: tuple[str, ...] = Field(default=(), description="Words of success.", examples=[["completed"]])
    failed: dict[str, ErrorClass] = Field(
        default_factory=dict, description="Words of failure, and the class of each.", examples=[{"failed": "agent"}]
    )
    poll: Call | None = Field(default=None, description="Asks about one work.", examples=[{"path": "/runs/{handle}"}])
    poll_many: PollMany | None = Field(default=None, description="The request that asks about many at once, where there is one.")
    poll_batch: int = Field(default=100, ge=1, description="Works that `poll_many` may ask about at once.")
    poll_after: Duration = Field(default=Duration(5), description="Time before the first question; later ones are rarer.")
    cancel: Call | None = Field(
        default=None, description="The request that ends work.", examples=[{"path": "/runs/{handle}/cancel"}]
    )
    idempotency_header: str | None = Field(
        default=None,
        description="Header for the key, if the other side acts once on it.",
        examples=["Idempotency-Key"],
    )
    callback_base_url: str | None = Field(
        default=None, description="Address of our web server as seen from there, for `{callback_url}`."
    )
    structured_output: bool = Field(default=False, description="Whether the agent answers a schema with an output.")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "HttpAgentConfig":
        polls = self.poll is not None or self.poll_many is not None
        if polls != (self.handle is not None):
            raise ValueError("`handle` goes with `poll` or `poll_many`, and they need it")
        if self.handle is not None and (self.status is None or not self.succeeded):
            raise ValueError("`handle` needs `status` and the words of `succeeded`: how else would the end be seen?")
        if self.cancel is not None and self.handle is None:
            raise ValueError("`cancel` goes with `handle`; closing the connection ends what has none")
        known: dict[str, tuple[str, ...]] = {
            "start": _OF_INVOCATION,
            "poll": ("handle",),
            "poll_many": ("handles",),
            "cancel": ("handle",),
        }
        for name, allowed in known.items():
            call: Call | None = getattr(self, name)
            for used in () if call is None else call.placeholders():
                if used not in allowed:
                    fitting = ", ".join(f"{{{each}}}" for each in allowed)
                    raise ValueError(f"`{name}` uses {{{used}}}, which is no placeholder there; known are {fitting}")
                if used.startswith("callback_") and self.callback_base_url is None:
                    raise ValueError(f"`{name}` uses {{{used}}}, which needs `callback_base_url`")
        return self


class HttpAgentRuntime(Runtime[HttpAgentConfig]):
    """An agent that is begun by one request, and polled by others if it works for long."""

    kind = "http"
    config_type = HttpAgentConfig
    capabilities = Capabilities(
        keeps_sessions=True,
        reports_usage=True,
        honours_idempotency_key=True,
        cancels=True,
        structured_output=True,
        hands_over=True,
    )

    def __init__(self, config: HttpAgentConfig, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(config)
        hands_over = config.handle is not None
        self.capabilities = Capabilities(
            keeps_sessions=config.result.session_id is not None and "remote_session_id" in config.start.placeholders(),
            reports_usage=any(name.endswith("tokens") for name in config.result.declared),
            honours_idempotency_key=config.idempotency_header is not None,
            cancels=not hands_over or config.cancel is not None,
            structured_output=config.structured_output,
            hands_over=hands_over,
        )
        self.polls_at_once = config.poll_batch if config.poll_many is not None else _SINGLE
        self._http = Http(config, client)

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Begin the work; without a handle the answer is its result."""
        config = self.config
        path, body = config.start.filled(values_of(config, invocation))
        key = {} if config.idempotency_header is None else {config.idempotency_header: invocation.idempotency_key}
        answer, asked = await self._call(config.start.method, path, body, key)
        if config.handle is not None:
            handle = at(answer, config.handle)
            if not isinstance(handle, str | int) or handle == "":
                raise RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"the answer has no handle at `{config.handle}`: {answer}"))
            yield Handle(id=str(handle), poll_after=max(config.poll_after, asked or 0.0))
        progress = progress_of(config, answer, asked)
        if isinstance(progress, RuntimeFailure):
            raise progress
        if isinstance(progress, Finished):
            for event in progress.events:
                yield event
        elif config.handle is None:
            raise RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"the answer is no result, and has no handle to ask by: {answer}"))

    async def poll(self, handles: Sequence[str]) -> Mapping[str, Progress]:
        """Ask about works: all at once if the interface can, else each by itself."""
        config = self.config
        if config.poll_many is not None:
            many = config.poll_many
            path, body = many.filled({"handles": list(handles)})
            answer, asked = await self._call(many.method, path, body)
            return progresses_of(config, many, answer, asked)
        at_once = asyncio.Semaphore(_SINGLE_AT_ONCE)
        failures: list[RuntimeFailure] = []

        async def ask(handle: str) -> Progress | None:
            assert config.poll is not None
            path, body = config.poll.filled({"handle": handle})
            try:
                async with at_once:
                    answer, asked = await self._call(config.poll.method, path, body)
            except RuntimeFailure as failure:
                if failure.error_class is ErrorClass.NOT_FOUND:
                    return failure
                failures.append(failure)
                return None
            return progress_of(config, answer, asked)

        found = dict(zip(handles, await asyncio.gather(*map(ask, handles)), strict=True))
        if len(failures) == len(handles):
            raise failures[0]
        return {handle: progress for handle, progress in found.items() if progress is not None}

    async def cancel(self, handle: str) -> None:
        """Ask for the end of work; one that is not there any more has ended."""
        call = self.config.cancel
        if call is None:
            raise RuntimeFailure(ErrorClass.INVALID_REQUEST, "the agent declares no `cancel`, so that its work goes on")
        path, body = call.filled({"handle": handle})
        try:
            await self._call(call.method, path, body, reads=False)
        except RuntimeFailure as failure:
            if failure.error_class is not ErrorClass.NOT_FOUND:
                raise

    async def close(self) -> None:
        await self._http.close()

    async def _call(
        self, method: str, path: str, body: JsonValue, headers: Mapping[str, str] | None = None, *, reads: bool = True
    ) -> tuple[JsonValue, float | None]:
        sent = bearer(secret_from_environment(self.config.api_key_env)) | dict(headers or {})
        async with self._http.open(method, path, json=body, headers=sent) as response:
            raw = await response.aread()
            asked = retry_after(response.headers, SystemClock().now())
        return (read_json(raw, "the agent") if reads else None), asked


def values_of(config: HttpAgentConfig, invocation: Invocation) -> dict[str, JsonValue]:
    """What the placeholders of `start` stand for."""
    said = [message for message in invocation.messages if message.role != "system"]
    callback = invocation.callback
    base = (config.callback_base_url or "").rstrip("/")
    return {
        "prompt": said[-1].content if said else "",
        "system": next((message.content for message in invocation.messages if message.role == "system"), None),
        "messages": [message.model_dump() for message in invocation.messages],
        "session_id": invocation.session_id,
        "remote_session_id": invocation.remote_session_id,
        "idempotency_key": invocation.idempotency_key,
        "task": invocation.task,
        "application": invocation.application,
        "logical_time": isoformat(invocation.logical_at),
        "output_schema": invocation.output_schema,
        "parameters": invocation.parameters,
        "variables": invocation.variables,
        "callback_url": None if callback is None else f"{base}{callback.path}",
        "callback_token": None if callback is None else callback.token.get_secret_value(),
    }


def progress_of(config: HttpAgentConfig, answer: JsonValue, asked: float | None = None) -> Progress | None:
    """How work stands according to an answer; None if its word is not among the declared ones."""
    word = None if config.status is None else _text(at(answer, config.status))
    if word is not None:
        if word in config.failed:
            return _failure(config, answer, config.failed[word], f"the agent says {word!r}")
        if word in config.running:
            return StillRunning(asked)
        if word not in config.succeeded:
            return None
    result = config.result
    if result.of(answer, "is_error"):
        return _failure(config, answer, ErrorClass.AGENT, "the agent failed")
    output, text = result.of(answer, "output"), result.of(answer, "text")
    if output is None and text is None:
        paths = ", ".join(f"`{path}`" for path in (result.text, result.output) if path is not None)
        return RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"the answer has nothing at {paths}: {answer}"))
    said = _text(output if text is None else text)
    events: list[AgentEvent] = [] if not said else [Text(text=said)]
    model = result.of(answer, "model")
    usage = result.usage(answer)
    if usage is not None:
        events.append(UsageReport(usage=usage, model=None if model is None else _text(model)))
    named = {name: value for name in ("finish_reason", "model", "session_id") if (value := result.of(answer, name)) is not None}
    final = Final.model_validate({"text": said, "output": output, **{name: _text(value) for name, value in named.items()}})
    return Finished([*events, final])


def progresses_of(
    config: HttpAgentConfig, many: PollMany, answer: JsonValue, asked: float | None = None
) -> Mapping[str, Progress]:
    """How works stand according to an answer about many. Raises RuntimeFailure (protocol) if it has no list of them."""
    items = at(answer, many.items)
    if not isinstance(items, list):
        raise RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"the answer has no list at `{many.items}`: {answer}"))
    found = {_text(at(item, many.handle)): progress_of(config, item, asked) for item in items}
    return {handle: progress for handle, progress in found.items() if progress is not None}


def _failure(config: HttpAgentConfig, answer: JsonValue, error_class: ErrorClass, words: str) -> RuntimeFailure:
    message = config.result.of(answer, "message")
    return RuntimeFailure(error_class, excerpt(words if message is None else f"{words}: {_text(message)}"))


def _placeholders(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _placeholders(each)
    elif isinstance(value, list):
        for each in value:
            yield from _placeholders(each)


def _filled(value: JsonValue, values: Mapping[str, JsonValue]) -> JsonValue:
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        # In one pass: a prompt that says {system} is text, not a template.
        return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda found: _text(values[found[1]]), value)
    if isinstance(value, Mapping):
        return {key: _filled(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    return value


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
