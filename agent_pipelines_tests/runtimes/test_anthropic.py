import json
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Reasoning, Text, ToolCall, Usage, UsageReport
from agent_pipelines.core.invocation import Message
from agent_pipelines.runtimes.anthropic import AnthropicConfig, AnthropicRuntime, request_body, usage_of
from agent_pipelines_tests.runtimes import messages_wire
from agent_pipelines_tests.runtimes.invoking import failure, final, invocation, of_type, run
from agent_pipelines_tests.runtimes.scripted_server import Script, ScriptedServer

SPENT = Usage(input_tokens=11, cached_input_tokens=3, output_tokens=7, requests=1)
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}


@pytest.fixture(params=[True, False], ids=["stream", "whole"])
def stream(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(autouse=True)
def fresh(server: ScriptedServer) -> None:
    server.forget()


def runtime(server: ScriptedServer, **settings: Any) -> AnthropicRuntime:
    return AnthropicRuntime(AnthropicConfig(base_url=server.base_url.removesuffix("/v1"), model="asked-for", **settings))


def said(*content: dict[str, Any], stream: bool, stop_reason: str = "end_turn") -> Script:
    return (messages_wire.streamed if stream else messages_wire.whole)(*content, stop_reason=stop_reason)


def test_an_answer_gives_text_usage_and_final(server: ScriptedServer, stream: bool) -> None:
    events = run(runtime(server, stream=stream))
    last = final(events)
    assert (last.text, last.finish_reason, last.model) == ("echo: hello", "end_turn", "scripted-1")
    assert of_type(events, UsageReport) == [UsageReport(usage=SPENT, model="scripted-1")]
    assert len(of_type(events, Text)) == (3 if stream else 1)


def test_thinking_and_tool_calls_are_told(server: ScriptedServer, stream: bool) -> None:
    thinking = {"type": "thinking", "thinking": "Where is it?"}
    server.scripts["hello"] = said(thinking, messages_wire.text("Let me look."), CALL, stream=stream, stop_reason="tool_use")
    events = run(runtime(server, stream=stream))
    assert of_type(events, Reasoning) == [Reasoning(text="Where is it?")]
    assert of_type(events, ToolCall) == [ToolCall(id="toolu_1", name="weather", arguments={"city": "Bern"})]
    assert final(events).text == "Let me look."


def test_the_request_is_what_the_api_expects(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "key-of-the-request")
    agent = runtime(server, api_key_env="SCRIPTED_KEY", betas=("a", "b"), extra_body={"temperature": 1, "top_k": 5})
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="hello"),
    )
    run(agent, invocation(messages=messages, parameters={"temperature": 0.2, "max_tokens": 50}))
    assert server.requests == [
        {
            "model": "asked-for",
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "Yes?"},
                {"role": "user", "content": "hello"},
            ],
            "stream": True,
            "max_tokens": 50,
            "temperature": 0.2,
            "top_k": 5,
        }
    ]
    (headers,) = server.headers
    assert (headers["x-api-key"], headers["anthropic-version"], headers["anthropic-beta"]) == (
        "key-of-the-request",
        "2023-06-01",
        "a,b",
    )


def test_a_schema_becomes_the_tool_that_must_be_called() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"total": {"type": "integer"}}}
    alone = request_body(AnthropicConfig(model="m"), invocation(output_schema=schema))
    assert alone["tools"] == [{"name": "answer", "description": "Give the answer.", "input_schema": schema}]
    assert alone["tool_choice"] == {"type": "tool", "name": "answer"}
    beside = request_body(
        AnthropicConfig(model="m", extra_body={"tools": [{"name": "weather"}]}), invocation(output_schema=schema)
    )
    assert [tool["name"] for tool in beside["tools"]] == ["weather", "answer"]
    assert beside["tool_choice"] == {"type": "auto"}


def test_the_arguments_of_the_answer_are_the_output(server: ScriptedServer, stream: bool) -> None:
    answer = {"type": "tool_use", "id": "toolu_2", "name": "answer", "input": {"total": 3, "word": "Zürich"}}
    server.scripts["hello"] = said(answer, stream=stream, stop_reason="tool_use")
    events = run(runtime(server, stream=stream), invocation(output_schema={"type": "object"}))
    assert final(events).output == {"total": 3, "word": "Zürich"}
    assert json.loads(final(events).text) == {"total": 3, "word": "Zürich"}
    assert of_type(events, ToolCall) == []


def test_what_it_cost_is_told_before_a_refusal(server: ScriptedServer, stream: bool) -> None:
    server.scripts["hello"] = said(messages_wire.text("No."), stream=stream, stop_reason="refusal")
    failed = failure(runtime(server, stream=stream))
    assert failed.error_class is ErrorClass.REFUSED


def test_an_error_in_the_stream_has_its_class(server: ScriptedServer) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    server.scripts["hello"] = messages_wire.stream(messages_wire.begun(), error)
    assert failure(runtime(server)).error_class is ErrorClass.OVERLOADED


def test_a_stream_without_its_end_is_of_unknown_outcome(server: ScriptedServer) -> None:
    server.scripts["hello"] = messages_wire.stream(messages_wire.begun())
    assert failure(runtime(server)).error_class is ErrorClass.UNKNOWN_OUTCOME


def test_the_wait_that_is_asked_for_is_told(server: ScriptedServer) -> None:
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "slower"}}
    server.scripts["hello"] = Script(status=429, headers={"retry-after": "7"}, parts=[body])
    failed = failure(runtime(server))
    assert (failed.error_class, failed.retry_after, failed.code) == (ErrorClass.RATE_LIMIT, 7.0, "rate_limit_error")


def test_cached_input_counts_as_input() -> None:
    assert usage_of(messages_wire.USAGE) == SPENT
    assert usage_of({}) == Usage(requests=1)


def test_a_parameter_that_is_the_adapters_own_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="parameter `system` is set by the adapter"):
        request_body(AnthropicConfig(model="m"), invocation(parameters={"system": "x"}))
    with pytest.raises(ValidationError, match="`messages` is set by the adapter"):
        AnthropicConfig(model="m", extra_body={"messages": []})
