import asyncio
import json
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.event import Text, UsageReport
from agent_pipelines.core.invocation import Invocation, Message
from agent_pipelines.runtimes.command import CommandConfig, CommandRuntime, command_line
from agent_pipelines_tests.runtimes.invoking import collect, failure, final, invocation, of_type, run
from agent_pipelines_tests.runtimes.test_command_output import CLAUDE_DOCUMENT, CLAUDE_RESULT, CODEX, CODEX_LINES, lines
from agent_pipelines_tests.runtimes.waiting import a_until, is_alive


def agent(*argv: str, **settings: Any) -> CommandRuntime:
    return CommandRuntime(CommandConfig.model_validate({"argv": argv, "grace": 0.2, **settings}))


def shell(script: str, *arguments: str, **settings: Any) -> CommandRuntime:
    return agent("sh", "-c", script, "sh", *arguments, **settings)


def printing(what: bytes, tmp_path: Path, script: str = 'cat "$1"', **settings: Any) -> CommandRuntime:
    (tmp_path / "output").write_bytes(what)
    return shell(script, str(tmp_path / "output"), **settings)


def test_the_prompt_goes_to_stdin_and_stdout_is_the_answer() -> None:
    events = run(agent("cat"), "Grüße\nvon hier")
    assert final(events).text == "Grüße\nvon hier"


def test_text_streams() -> None:
    async def main() -> None:
        async with aclosing(shell("echo one; sleep 1000").stream(invocation())) as events:
            assert await anext(events) == Text(text="one")

    asyncio.run(main())


def test_a_document_is_read(tmp_path: Path) -> None:
    events = run(printing(lines(CLAUDE_DOCUMENT), tmp_path, output="json", result=CLAUDE_RESULT))
    assert final(events).text == "It is 5."
    assert of_type(events, UsageReport)[0].usage.input_tokens == 11


def test_lines_are_read(tmp_path: Path) -> None:
    events = run(printing(lines(*CODEX_LINES), tmp_path, **CODEX))
    assert (final(events).text, final(events).session_id) == ("Two files.", "019a")


def test_placeholders_are_filled_without_a_shell() -> None:
    wicked = "$(touch /nowhere) `id` \"; rm -rf 'x' {system} {session_id} * \\"
    request = invocation(wicked, session_id="s-1", output_schema={"type": "object"})
    names = ("prompt", "session_id", "idempotency_key", "task", "logical_time", "output_schema")
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    told = final(run(agent(sys.executable, "-c", script, *map("<{{{}}}>".format, names)), request)).text
    assert json.loads(told) == [
        f"<{wicked}>",
        "<s-1>",
        f"<{request.idempotency_key}>",
        "<digest>",
        "<2026-01-01T00:00:00Z>",
        '<{"type": "object"}>',
    ]


def test_the_whole_invocation_can_be_given() -> None:
    request = invocation(variables={"a": 1})
    assert Invocation.model_validate_json(final(run(agent("cat", stdin="{invocation}"), request)).text) == request


MESSAGES = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="One?"),
    Message(role="assistant", content="Yes."),
    Message(role="user", content="Two?"),
)


def test_history_is_told_to_an_agent_that_keeps_none() -> None:
    config = CommandConfig(argv=("x",))
    assert command_line(config, invocation(messages=MESSAGES[:2])) == (["x"], b"Be brief.\n\nOne?")
    assert command_line(config, invocation(messages=MESSAGES))[1] == b"Be brief.\n\nUser: One?\n\nAssistant: Yes.\n\nUser: Two?"
    config = CommandConfig(argv=("x", "--system", "{system}"))
    assert command_line(config, invocation(messages=MESSAGES[:2])) == (["x", "--system", "Be brief."], b"One?")


def test_an_agent_that_keeps_sessions_is_told_only_what_is_new() -> None:
    config = CommandConfig(argv=("x", "--session-id", "{session_id}"), resume=("x", "--resume", "{session_id}"))
    first = invocation(messages=MESSAGES[:2], session_id="ours")
    assert command_line(config, first)[0] == ["x", "--session-id", "ours"]
    next_one = invocation(messages=MESSAGES, session_id="ours", remote_session_id="theirs")
    assert command_line(config, next_one) == (["x", "--resume", "theirs"], b"Two?")


def test_capabilities_follow_from_the_settings() -> None:
    plain = agent("x").capabilities
    assert (plain.keeps_sessions, plain.streams, plain.reports_usage, plain.structured_output) == (False, True, False, False)
    rich = agent("x", "{output_schema}", resume=["x"], output="json", result=CLAUDE_RESULT).capabilities
    assert (rich.keeps_sessions, rich.streams, rich.reports_usage, rich.structured_output) == (True, False, True, True)


def test_only_named_variables_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_KEY", "planted-environment-key")
    monkeypatch.setenv("OTHER_KEY", "not-for-you")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    told = run(agent(sys.executable, "-c", script, env={"PLAIN": "1"}, env_from=["SOME_KEY"], cwd=str(tmp_path)))
    environment = json.loads(final(told).text)
    assert environment["SOME_KEY"] == "planted-environment-key"
    assert environment["PLAIN"] == "1"
    allowed = {"SOME_KEY", "PLAIN", "PATH", "HOME", "LANG", "TMPDIR"}
    assert set(environment) - {"LC_CTYPE", "PWD"} <= allowed  # Python and shells add these two


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    problem = failure(agent("cat", env_from=["SOME_KEY"]))
    assert problem.error_class is ErrorClass.AUTHENTICATION
    assert "SOME_KEY" in problem.message


def test_short_values_are_passed_on_but_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SWITCH", "true")
    problem = failure(shell("echo it is $SOME_SWITCH >&2; exit 1", env_from=["SOME_SWITCH"]))
    assert problem.message.endswith("it is true")


def test_an_exit_code_is_a_failure_with_the_end_of_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "planted-key-on-stderr")
    script = "seq 1 10000 >&2; echo bad key $SOME_KEY >&2; echo half an answer; exit 3"
    problem = failure(shell(script, env_from=["SOME_KEY"]))
    assert (problem.error_class, problem.status) == (ErrorClass.AGENT, 3)
    assert problem.message.startswith("sh ended with exit code 3: …")
    assert problem.message.endswith("10000 bad key [secret]")
    assert len(problem.message) < 500


def test_exit_codes_have_the_class_that_is_declared() -> None:
    assert failure(shell("exit 75", exit_codes={"75": "overloaded"})).error_class is ErrorClass.OVERLOADED
    assert failure(shell("exit 1", exit_codes={"75": "overloaded"})).error_class is ErrorClass.AGENT


def test_an_end_by_a_signal_says_which() -> None:
    problem = failure(shell("kill -9 $$"))
    assert (problem.error_class, problem.status) == (ErrorClass.AGENT, -9)
    assert "signal 9" in problem.message


@pytest.mark.parametrize("code", [0, 1])
def test_an_error_that_the_output_reports_is_what_failed(tmp_path: Path, code: int) -> None:
    document = lines(CLAUDE_DOCUMENT | {"is_error": True, "result": "API Error: 500"})
    script = f'cat "$1"; echo noise >&2; exit {code}'
    problem = failure(printing(document, tmp_path, script, output="json", result=CLAUDE_RESULT))
    assert (problem.error_class, problem.message) == (ErrorClass.AGENT, "sh failed: API Error: 500")


def test_output_that_cannot_be_read_is_quoted() -> None:
    problem = failure(shell("echo No conversation found", output="json"))
    assert problem.error_class is ErrorClass.PROTOCOL
    assert "No conversation found" in problem.message


def test_the_output_of_a_failed_program_is_quoted_if_it_has_no_stderr() -> None:
    problem = failure(shell("echo No conversation found; exit 1", output="json"))
    assert (problem.error_class, problem.message) == (ErrorClass.AGENT, "sh ended with exit code 1: No conversation found")


def test_too_much_output_ends_the_program() -> None:
    problem = failure(agent("yes", max_output=100_000))
    assert problem.error_class is ErrorClass.PROTOCOL
    assert "max_output" in problem.message


@pytest.mark.parametrize(
    ("argv", "settings", "expected", "words"),
    [
        (["no-such-agent-cli", "-p"], {}, ErrorClass.NOT_FOUND, "no-such-agent-cli: no such program"),
        (["/etc/passwd"], {}, ErrorClass.NOT_FOUND, "/etc/passwd is not executable"),
        (["cat"], {"cwd": "/no/such/directory"}, ErrorClass.NOT_FOUND, "/no/such/directory"),
        (["echo", "{prompt}"], {}, ErrorClass.INVALID_REQUEST, "stdin"),
    ],
)
def test_a_program_that_does_not_start_is_explained(
    argv: list[str], settings: dict[str, Any], expected: ErrorClass, words: str
) -> None:
    problem = failure(agent(*argv, **settings), "x" * 200_000)
    assert problem.error_class is expected
    assert words in problem.message


def test_a_nul_byte_in_an_argument_is_explained() -> None:
    assert failure(agent("echo", "{prompt}"), "a\0b").error_class is ErrorClass.INVALID_REQUEST


def test_cancelling_ends_the_program_and_its_children(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    script = 'trap "" TERM; sleep 1000 & echo $$ $! > "$1.new"; mv "$1.new" "$1"; wait; while :; do sleep 1000; done'

    async def main() -> None:
        task = asyncio.create_task(collect(shell(script, str(told)), invocation()))
        await a_until(lambda: os.path.exists(told))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pids = [int(pid) for pid in told.read_text().split()]
        assert len(pids) == 2
        await a_until(lambda: not any(map(is_alive, pids)))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"argv": []}, "argv"),
        ({"argv": ["{prompt}"]}, "first item is the program"),
        ({"argv": ["sh", "-c", "agent {prompt}"]}, "code after `-c`"),
        ({"argv": ["agent"], "resume": ["/usr/bin/python3.11", "-c", "print({task})"]}, "code after `-c`"),
        ({"argv": ["x", "{promt}"]}, "{promt} is no placeholder"),
        ({"argv": ["x"], "stdin": "{model}"}, "{model} is no placeholder"),
        ({"argv": ["x"], "exit_codes": {"0": "agent"}}, "0 is success"),
        ({"argv": ["x"], "shell": True}, "shell"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CommandConfig.model_validate(settings)
    assert words in str(caught.value)


def test_braces_of_json_are_left_alone() -> None:
    config = '{"servers":{"a":{"url":"http://x"}}}'
    assert command_line(CommandConfig(argv=("x", config)), invocation())[0] == ["x", config]
