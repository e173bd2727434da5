import json
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Reasoning, Text, ToolCall, ToolResult, Usage, UsageReport
from agent_pipelines.runtimes.command_output import OutputConfig, OutputReader, at
from agent_pipelines_tests.runtimes.invoking import final, of_type

# As Codex CLI 0.169.0 `exec --json` writes.
CODEX_RULES = [
    {"match": {"type": "thread.started"}, "event": "session", "session_id": "thread_id"},
    {"match": {"type": "item.completed", "item.type": "agent_message"}, "event": "text", "text": "item.text"},
    {"match": {"type": "item.completed", "item.type": "reasoning"}, "event": "reasoning", "text": "item.text"},
    {
        "match": {"type": "item.started", "item.type": "command_execution"},
        "event": "tool_call",
        "id": "item.id",
        "name": "item.type",
        "arguments": "item.command",
    },
    {
        "match": {"type": "item.completed", "item.type": "command_execution"},
        "event": "tool_result",
        "id": "item.id",
        "name": "item.type",
        "output": "item.aggregated_output",
    },
    {
        "match": {"type": "turn.completed"},
        "event": "final",
        "input_tokens": "usage.input_tokens",
        "cached_input_tokens": "usage.cached_input_tokens",
        "output_tokens": "usage.output_tokens",
        "reasoning_tokens": "usage.reasoning_output_tokens",
    },
    {"match": {"type": "turn.failed"}, "event": "error", "message": "error.message"},
]
CODEX = {"output": "jsonl", "answer": "last", "cumulative_usage": True, "events": CODEX_RULES}
CODEX_LINES: list[dict[str, Any]] = [
    {"type": "thread.started", "thread_id": "019a"},
    {"type": "turn.started"},
    {"type": "item.completed", "item": {"id": "0", "type": "error", "text": "model metadata not found"}},
    {"type": "item.completed", "item": {"id": "1", "type": "reasoning", "text": "Look first."}},
    {"type": "item.completed", "item": {"id": "2", "type": "agent_message", "text": "I will look."}},
    {"type": "item.started", "item": {"id": "3", "type": "command_execution", "command": "ls"}},
    {"type": "item.completed", "item": {"id": "3", "type": "command_execution", "aggregated_output": "a b"}},
    {"type": "item.completed", "item": {"id": "4", "type": "agent_message", "text": "Two files."}},
    {
        "type": "turn.completed",
        "usage": {
            "input_tokens": 11,
            "cached_input_tokens": 3,
            "cache_write_input_tokens": 0,
            "output_tokens": 7,
            "reasoning_output_tokens": 2,
        },
    },
]

# As Claude Code 2.1.329 writes, which counts cached input apart.
CLAUDE_RESULT = {
    "text": "result",
    "session_id": "session_id",
    "finish_reason": "stop_reason",
    "is_error": "is_error",
    "input_tokens": ["usage.input_tokens", "usage.cache_creation_input_tokens", "usage.cache_read_input_tokens"],
    "cached_input_tokens": "usage.cache_read_input_tokens",
    "output_tokens": "usage.output_tokens",
    "reasoning_tokens": "usage.output_tokens_details.thinking_tokens",
    "requests": "num_turns",
    "cost_usd": "total_cost_usd",
}
CLAUDE_USAGE = {
    "input_tokens": 8,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 3,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 2},
}
CLAUDE_DOCUMENT: dict[str, Any] = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "It is 5.",
    "session_id": "22222222-2222-4222-8222-222222222222",
    "stop_reason": "end_turn",
    "num_turns": 1,
    "total_cost_usd": 0.000345,
    "usage": CLAUDE_USAGE,
}
CLAUDE_STREAM = {
    "output": "jsonl",
    "answer": "last",
    "events": [
        {"match": {"type": "system", "subtype": "init"}, "event": "session", "session_id": "session_id", "model": "model"},
        {
            "match": {"type": "assistant"},
            "each": "message.content",
            "where": {"type": "text"},
            "event": "text",
            "text": "text",
        },
        {
            "match": {"type": "assistant"},
            "each": "message.content",
            "where": {"type": "tool_use"},
            "event": "tool_call",
            "id": "id",
            "name": "name",
            "arguments": "input",
        },
        {
            "match": {"type": "user"},
            "each": "message.content",
            "where": {"type": "tool_result"},
            "event": "tool_result",
            "id": "tool_use_id",
            "output": "content",
            "is_error": "is_error",
        },
        {"match": {"type": "result"}, "event": "final", **CLAUDE_RESULT},
    ],
}
CLAUDE_LINES: list[dict[str, Any]] = [
    {"type": "system", "subtype": "init", "session_id": "s-1", "model": "hosted", "tools": []},
    {
        "type": "assistant",
        "message": {
            "content": [
                {"type": "text", "text": "Let me add."},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2, "b": 3}},
            ]
        },
    },
    {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1", "content": "5", "is_error": False}]}},
    {"type": "user", "message": {"content": "a plain text"}},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "It is 5."}]}},
    CLAUDE_DOCUMENT | {"session_id": "s-1"},
]
SPENT = Usage(input_tokens=11, cached_input_tokens=3, output_tokens=7, reasoning_tokens=2)


def lines(*objects: Any) -> bytes:
    return b"".join((item if isinstance(item, str) else json.dumps(item)).encode() + b"\n" for item in objects)


def read(config: dict[str, Any], output: bytes, *, step: int = 7, resumes: bool = False) -> tuple[OutputReader, list[AgentEvent]]:
    """Feed an output in small pieces, which cut it anywhere."""
    reader = OutputReader(OutputConfig.model_validate(config), resumes=resumes)
    events = [event for start in range(0, len(output), step) for event in reader.feed(output[start : start + step])]
    events += reader.close()
    return reader, events


def answer(config: dict[str, Any], output: bytes, **settings: Any) -> list[AgentEvent]:
    reader, events = read(config, output, **settings)
    assert reader.failure is None
    events += reader.finish()
    final(events)
    return events


def problem(config: dict[str, Any], output: bytes) -> RuntimeFailure:
    reader, _ = read(config, output)
    assert reader.failure is not None
    return reader.failure


def test_text_streams_as_it_is_without_the_last_line_ends() -> None:
    events = answer({}, "Grüße,\n\nvon hier\n\n".encode(), step=1)
    assert final(events).text == "Grüße,\n\nvon hier"
    assert len(of_type(events, Text)) > 5


def test_text_that_is_not_utf8_is_marked() -> None:
    assert final(answer({}, b"a\xff\xc3")).text == "a��"


def test_a_document_without_paths_is_the_output() -> None:
    last = final(answer({"output": "json"}, b' {"total": 3}\n'))
    assert (last.text, last.output) == ('{"total": 3}', {"total": 3})


def test_a_result_of_claude_code_is_read() -> None:
    events = answer({"output": "json", "result": CLAUDE_RESULT}, lines(CLAUDE_DOCUMENT))
    last = final(events)
    assert (last.text, last.session_id, last.finish_reason) == ("It is 5.", CLAUDE_DOCUMENT["session_id"], "end_turn")
    (report,) = of_type(events, UsageReport)
    assert report.usage == SPENT.model_copy(update={"requests": 1, "cost_usd": 0.000345})


def test_a_document_that_reports_an_error_fails_with_its_text() -> None:
    failure = problem(
        {"output": "json", "result": CLAUDE_RESULT}, lines(CLAUDE_DOCUMENT | {"is_error": True, "result": "API Error"})
    )
    assert (failure.error_class, failure.message) == (ErrorClass.AGENT, "API Error")


def test_a_structured_output_without_text_is_its_own_text() -> None:
    last = final(answer({"output": "json", "result": {"output": "data"}}, b'{"data": {"total": 3}}'))
    assert (last.text, last.output) == ('{"total": 3}', {"total": 3})


@pytest.mark.parametrize("output", [b"", b"No conversation found", b'{"result": '])
def test_what_is_not_a_document_is_a_protocol_failure(output: bytes) -> None:
    assert problem({"output": "json"}, output).error_class is ErrorClass.PROTOCOL


def test_a_turn_of_codex_is_read() -> None:
    events = answer(CODEX, lines("Reading prompt from stdin...", *CODEX_LINES))
    assert of_type(events, Reasoning) == [Reasoning(text="Look first."), Reasoning(text="I will look.")]
    assert of_type(events, ToolCall) == [ToolCall(id="3", name="command_execution", arguments="ls")]
    assert of_type(events, ToolResult) == [ToolResult(id="3", name="command_execution", output="a b")]
    assert [report.usage for report in of_type(events, UsageReport)] == [SPENT]
    assert (final(events).text, final(events).session_id) == ("Two files.", "019a")


def test_usage_that_counts_a_whole_session_is_left_unknown_when_it_is_resumed() -> None:
    assert of_type(answer(CODEX, lines(*CODEX_LINES), resumes=True), UsageReport) == []


def test_a_failed_turn_of_codex_fails() -> None:
    failed = {"type": "turn.failed", "error": {"message": "stream disconnected"}}
    failure = problem(CODEX, lines(*CODEX_LINES[:3], failed))
    assert (failure.error_class, failure.message) == (ErrorClass.AGENT, "stream disconnected")


def test_a_stream_of_claude_code_is_read() -> None:
    events = answer(CLAUDE_STREAM, lines(*CLAUDE_LINES))
    assert [type(event) for event in events] == [ToolCall, ToolResult, Reasoning, UsageReport, Text, type(events[-1])]
    assert of_type(events, ToolCall) == [ToolCall(id="t1", name="add", arguments={"a": 2, "b": 3})]
    assert of_type(events, ToolResult) == [ToolResult(id="t1", name="", output="5")]
    assert of_type(events, Reasoning) == [Reasoning(text="Let me add.")]
    last = final(events)
    assert (last.text, last.session_id, last.model) == ("It is 5.", "s-1", "hosted")


def test_all_texts_make_up_the_answer_unless_told_otherwise() -> None:
    rules = [{"match": {}, "event": "text", "text": "delta"}]
    events = answer({"output": "jsonl", "events": rules}, lines({"delta": "one "}, {"other": 1}, {"delta": "two"}))
    assert [text.text for text in of_type(events, Text)] == ["one ", "two"]


def test_an_error_rule_names_its_class() -> None:
    rules = [{"match": {"error.type": "rate_limit"}, "event": "error", "error_class": "rate_limit", "message": "error.message"}]
    failure = problem({"output": "jsonl", "events": rules}, lines({"error": {"type": "rate_limit", "message": "slow"}}))
    assert (failure.error_class, failure.message) == (ErrorClass.RATE_LIMIT, "slow")


@pytest.mark.parametrize(
    "output",
    [lines(*CODEX_LINES[:-1]), lines("all is well"), b"", lines(*CODEX_LINES) + b'{"type": "turn.com'],
    ids=["no final line", "no line of JSON", "nothing", "a line that is cut"],
)
def test_lines_that_do_not_end_properly_are_a_protocol_failure(output: bytes) -> None:
    assert problem(CODEX, output).error_class is ErrorClass.PROTOCOL


@pytest.mark.parametrize("output", ["text", "json", "jsonl"])
def test_output_beyond_the_limit_is_refused(output: str) -> None:
    events = [{"match": {}, "event": "text", "text": "t"}] if output == "jsonl" else []
    with pytest.raises(RuntimeFailure, match="max_output") as caught:
        read({"output": output, "events": events, "max_output": 100}, b"x" * 200)
    assert caught.value.error_class is ErrorClass.PROTOCOL


def test_lines_may_be_more_in_all_than_what_is_kept() -> None:
    config = {"output": "jsonl", "events": [{"match": {"type": "text"}, "event": "text", "text": "t"}], "max_output": 100}
    output = lines(*[{"type": "progress"}] * 100, {"type": "text", "t": "done"})
    assert final(answer(config, output)).text == "done"
    with pytest.raises(RuntimeFailure, match="max_output"):
        read(config, lines(*[{"type": "text", "t": "word"}] * 100))


@pytest.mark.parametrize(
    ("path", "found"), [("a.b", 1), ("list.1.c", 2), ("a", {"b": 1}), ("a.x", None), ("list.9", None), ("a.b.c", None)]
)
def test_a_dotted_path_leads_to_a_value(path: str, found: object) -> None:
    assert at({"a": {"b": 1}, "list": [0, {"c": 2}]}, path) == found


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"output": "jsonl"}, "`events`"),
        ({"events": [{"match": {}, "event": "text", "text": "t"}]}, "`events`"),
        ({"result": {"text": "a"}}, "`result`"),
        ({"output": "json", "result": {"arguments": "a"}}, "result.arguments"),
        ({"answer": "last"}, "`answer: last`"),
        ({"output": "jsonl", "events": [{"match": {}, "event": "text", "name": "t"}]}, "its fields are text"),
        ({"output": "jsonl", "events": [{"match": {}, "where": {"a": 1}, "event": "text"}]}, "`each`"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OutputConfig.model_validate(config)
    assert words in str(caught.value)
