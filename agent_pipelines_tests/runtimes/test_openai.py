import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Reasoning, Text, ToolCall, Usage, UsageReport
from agent_pipelines.core.invocation import Message
from agent_pipelines.runtimes.openai import OpenAIConfig, OpenAIRuntime, request_body
from agent_pipelines_tests.runtimes.invoking import collect, failure, final, invocation, of_type, run
from agent_pipelines_tests.runtimes.scripted_server import USAGE, Script, ScriptedServer, chunk, frames, whole

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
SPENT = Usage(input_tokens=11, cached_input_tokens=3, output_tokens=7, reasoning_tokens=2, requests=1)


@pytest.fixture(params=[True, False], ids=["stream", "whole"])
def stream(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(autouse=True)
def fresh(server: ScriptedServer) -> None:
    server.forget()


def runtime(server: ScriptedServer, **settings: Any) -> OpenAIRuntime:
    return OpenAIRuntime(OpenAIConfig(base_url=server.base_url, model="asked-for", **settings))


def said(message: dict[str, Any], finish_reason: str | None, stream: bool, **more: Any) -> Script:
    """The same answer in one piece or as a stream."""
    if not stream:
        return whole(message, finish_reason, **more)
    return frames(chunk(message), chunk({}, finish_reason, **more), chunk(usage=USAGE))


def test_an_answer_gives_text_usage_and_final(server: ScriptedServer, stream: bool) -> None:
    events = run(runtime(server, stream=stream))
    last = final(events)
    assert (last.text, last.finish_reason, last.model) == ("echo: hello", "stop", "scripted-1")
    assert of_type(events, UsageReport) == [UsageReport(usage=SPENT, model="scripted-1")]
    assert len(of_type(events, Text)) == (3 if stream else 1)


def test_the_request_is_what_the_endpoint_expects(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "key-of-the-request")
    agent = runtime(
        server,
        api_key_env="SCRIPTED_KEY",
        organization="org-1",
        project="proj-1",
        headers={"X-Team": "data"},
        extra_body={"tools": [{"type": "function"}], "temperature": 1},
    )
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="hello"))
    run(agent, invocation(messages=messages, parameters={"temperature": 0.2, "max_tokens": 50}))
    assert server.requests == [
        {
            "model": "asked-for",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [{"type": "function"}],
            "temperature": 0.2,
            "max_tokens": 50,
        }
    ]
    (headers,) = server.headers
    assert headers["authorization"] == "Bearer key-of-the-request"
    assert (headers["openai-organization"], headers["openai-project"], headers["x-team"]) == ("org-1", "proj-1", "data")


def test_without_a_key_no_authorization_is_sent(server: ScriptedServer, stream: bool) -> None:
    run(runtime(server, stream=stream))
    assert "authorization" not in server.headers[0]
    assert ("stream" in server.requests[0]) is stream


def test_a_key_that_is_not_set_names_its_variable(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRIPTED_KEY", raising=False)
    problem = failure(runtime(server, api_key_env="SCRIPTED_KEY"))
    assert problem.error_class is ErrorClass.AUTHENTICATION
    assert "SCRIPTED_KEY" in problem.message
    assert server.requests == []


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n"])
def test_fields_of_the_adapter_cannot_be_replaced(server: ScriptedServer, name: str) -> None:
    problem = failure(runtime(server), invocation(parameters={name: 2}))
    assert problem.error_class is ErrorClass.INVALID_REQUEST
    assert f"`{name}`" in problem.message
    with pytest.raises(ValidationError, match=name):
        runtime(server, extra_body={name: 2})


def test_a_schema_is_sent_and_the_answer_parsed(server: ScriptedServer, stream: bool) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}}
    server.scripts["sum"] = said({"content": '{"total": 3}'}, "stop", stream)
    agent = runtime(server, stream=stream, structured_output=True)
    assert final(run(agent, invocation("sum", output_schema=schema))).output == {"total": 3}
    wanted = {"type": "json_schema", "json_schema": {"name": "digest", "schema": schema}}
    assert server.requests[0]["response_format"] == wanted


def test_a_schema_is_not_sent_unless_the_endpoint_takes_it() -> None:
    config = OpenAIConfig(base_url="http://127.0.0.1/v1", model="m")
    assert "response_format" not in request_body(config, invocation(output_schema={"type": "object"}))
    assert not OpenAIRuntime(config).capabilities.structured_output
    assert OpenAIRuntime(config.model_copy(update={"structured_output": True})).capabilities.structured_output


def test_an_answer_that_breaks_its_schema_is_left_to_the_caller(server: ScriptedServer, stream: bool) -> None:
    server.scripts["sum"] = said({"content": "three"}, "stop", stream)
    agent = runtime(server, stream=stream, structured_output=True)
    last = final(run(agent, invocation("sum", output_schema={"type": "object"})))
    assert (last.text, last.output) == ("three", None)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_apart(server: ScriptedServer, stream: bool, field: str) -> None:
    server.scripts["think"] = said({field: "Hm.", "content": "Yes."}, "stop", stream)
    events = run(runtime(server, stream=stream), "think")
    assert [event.text for event in of_type(events, Reasoning)] == ["Hm."]
    assert final(events).text == "Yes."


def test_a_tool_call_is_reported_and_not_executed(server: ScriptedServer, stream: bool) -> None:
    server.scripts["call"] = said({"content": None, "tool_calls": [CALL]}, "tool_calls", stream)
    events = run(runtime(server, stream=stream), "call")
    assert of_type(events, ToolCall) == [ToolCall(id="call_1", name="weather", arguments={"city": "Bern"})]
    assert final(events).finish_reason == "tool_calls"


def test_tool_calls_are_put_together_from_their_pieces(server: ScriptedServer) -> None:
    def piece(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments} | more.pop("function", {})} | more]})

    server.scripts["call"] = frames(
        piece(0, '{"ci', id="a", function={"name": "weather"}),
        piece(1, "not", id="b", function={"name": "search"}),
        piece(0, 'ty": 1}'),
        piece(1, " json"),
        piece(1, "", id="c", function={"name": "numbered_like_the_one_before"}),
        chunk({}, "tool_calls"),
    )
    assert of_type(run(runtime(server), "call"), ToolCall) == [
        ToolCall(id="a", name="weather", arguments={"city": 1}),
        ToolCall(id="b", name="search", arguments="not json"),
        ToolCall(id="c", name="numbered_like_the_one_before", arguments=None),
    ]


def test_an_answer_that_reached_its_length_is_a_success_that_says_so(server: ScriptedServer, stream: bool) -> None:
    server.scripts["long"] = said({"content": "and so"}, "length", stream)
    assert final(run(runtime(server, stream=stream), "long")).finish_reason == "length"


def test_the_cost_that_a_proxy_names_is_reported(server: ScriptedServer, stream: bool) -> None:
    script = said({"content": "dear"}, "stop", stream)
    script.headers["x-litellm-response-cost"] = "0.0125"
    server.scripts["dear"] = script
    (report,) = of_type(run(runtime(server, stream=stream), "dear"), UsageReport)
    assert report.usage == SPENT.model_copy(update={"cost_usd": 0.0125})


def test_the_tries_that_a_proxy_names_are_reported(server: ScriptedServer, stream: bool) -> None:
    script = said({"content": "dear"}, "stop", stream)
    script.headers["x-litellm-attempted-retries"] = "2"
    server.scripts["dear"] = script
    assert final(run(runtime(server, stream=stream), "dear")).tries == 3


def test_content_in_parts_is_joined(server: ScriptedServer, stream: bool) -> None:
    content = [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}]
    server.scripts["parts"] = said({"content": content}, "stop", stream)
    assert final(run(runtime(server, stream=stream), "parts")).text == "one two"


def test_an_endpoint_that_ignores_stream_is_understood(server: ScriptedServer, stream: bool) -> None:
    server.scripts["other way"] = said({"content": "so"}, "stop", not stream)
    assert final(run(runtime(server, stream=stream), "other way")).text == "so"


def test_an_answer_without_usage_counts_as_one_request(server: ScriptedServer) -> None:
    server.scripts["free"] = frames(chunk({"content": "hi"}, "stop"), done=False)
    events = run(runtime(server), "free")
    assert of_type(events, UsageReport)[0].usage == Usage(requests=1)
    assert final(events).text == "hi"


HERMES = {"completed": False, "failed": True, "error": "HTTP 500: boom", "error_code": "agent_error"}


@pytest.mark.parametrize(
    ("message", "finish_reason", "more", "expected", "words"),
    [
        ({"content": "HTTP 500: boom"}, "error", {"hermes": HERMES}, ErrorClass.AGENT, "HTTP 500: boom"),
        ({"content": "it broke"}, "error", {}, ErrorClass.AGENT, "it broke"),
        ({"content": ""}, "content_filter", {}, ErrorClass.REFUSED, "content filter"),
        ({"refusal": "I will not."}, "stop", {}, ErrorClass.REFUSED, "I will not."),
    ],
    ids=["hermes", "error", "filter", "refusal"],
)
def test_a_failure_that_comes_with_status_200(
    server: ScriptedServer,
    stream: bool,
    message: dict[str, Any],
    finish_reason: str,
    more: dict[str, Any],
    expected: ErrorClass,
    words: str,
) -> None:
    server.scripts["bad"] = said(message, finish_reason, stream, **more)
    seen: list[AgentEvent] = []

    async def watch() -> None:
        agent = runtime(server, stream=stream)
        try:
            async for event in agent.stream(invocation("bad")):
                seen.append(event)
        finally:
            await agent.close()

    with pytest.raises(RuntimeFailure) as caught:
        asyncio.run(watch())
    assert caught.value.error_class is expected
    assert words in caught.value.message
    assert of_type(seen, UsageReport)[0].usage == SPENT  # what a failure cost is not lost


BROKEN: dict[str, tuple[Script, ErrorClass]] = {
    "error in a body": (Script(parts=[{"error": {"message": "no", "code": 429}}]), ErrorClass.RATE_LIMIT),
    "error in a chunk": (frames({"error": {"message": "no", "code": "503"}}, done=False), ErrorClass.OVERLOADED),
    "error as an event": (
        Script(content_type="text/event-stream", parts=['event: error\ndata: {"message": "no"}\n\n']),
        ErrorClass.SERVER,
    ),
    "no choice": (Script(parts=[{"choices": [], "usage": USAGE}]), ErrorClass.PROTOCOL),
    "no choice in a stream": (frames(chunk(usage=USAGE)), ErrorClass.PROTOCOL),
    "not an object": (Script(parts=["[1, 2]"]), ErrorClass.PROTOCOL),
    "garbage": (Script(content_type="text/html", parts=["<html>it works</html>"]), ErrorClass.PROTOCOL),
    "garbage in a stream": (frames(chunk({"content": "a"}), "{not json", done=False), ErrorClass.PROTOCOL),
    "half a surrogate pair": (frames('{"choices": [{"delta": {"content": "\\ud83d"}}]}'), ErrorClass.PROTOCOL),
    "an empty stream": (frames(done=False), ErrorClass.UNKNOWN_OUTCOME),
    "a stream that stops early": (frames(chunk({"content": "a"}), done=False), ErrorClass.UNKNOWN_OUTCOME),
    "a stream that is cut": (frames(chunk({"content": "a"}), done=False, end="cut"), ErrorClass.UNKNOWN_OUTCOME),
    "a body that is cut": (Script(parts=['{"choices": ['], end="cut"), ErrorClass.UNKNOWN_OUTCOME),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_classified(server: ScriptedServer, name: str) -> None:
    server.scripts["bad"], expected = BROKEN[name]
    assert failure(runtime(server), "bad").error_class is expected


@pytest.mark.parametrize(
    ("status", "headers", "expected", "wait"),
    [
        (401, {}, ErrorClass.AUTHENTICATION, None),
        (429, {"retry-after": "3"}, ErrorClass.RATE_LIMIT, 3.0),
        (429, {}, ErrorClass.RATE_LIMIT, None),
        (500, {}, ErrorClass.SERVER, None),
        (503, {"retry-after-ms": "250"}, ErrorClass.OVERLOADED, 0.25),
    ],
)
def test_a_status_is_classified_and_the_key_is_never_quoted(
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: dict[str, str],
    expected: ErrorClass,
    wait: float | None,
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "planted-key-of-no-known-shape")
    body = json.dumps({"error": {"message": "you sent $AUTHORIZATION"}})
    server.scripts["bad"] = Script(status=status, headers=headers, parts=[body])
    problem = failure(runtime(server, api_key_env="SCRIPTED_KEY"), "bad")
    assert (problem.error_class, problem.status, problem.retry_after) == (expected, status, wait)
    assert "you sent" in problem.message
    assert "planted" not in problem.message
    assert "Bearer" not in problem.message


def test_a_connection_serves_several_calls(server: ScriptedServer) -> None:
    async def thrice() -> int:
        agent = runtime(server, stream=False)
        try:
            for _ in range(3):
                await collect(agent, invocation())
        finally:
            await agent.close()
        return len({headers["port"] for headers in server.headers})

    assert asyncio.run(thrice()) == 1
