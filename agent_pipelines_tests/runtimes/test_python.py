import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import DefinitionError, ErrorClass
from agent_pipelines.core.event import AgentEvent, Final, Text, ToolCall
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes.python import PythonConfig, PythonRuntime
from agent_pipelines_tests.runtimes import python_agents
from agent_pipelines_tests.runtimes.invoking import collect, failure, final, invocation, of_type, run
from agent_pipelines_tests.runtimes.waiting import a_until, is_alive, until

MODULE = python_agents.__name__


def agent(name: str, **settings: Any) -> PythonRuntime:
    return PythonRuntime(PythonConfig(function=f"{MODULE}:{name}", **settings))


@pytest.fixture(params=["", "async_"], ids=["sync", "async"])
def manner(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_returned_text_is_the_answer(manner: str) -> None:
    events = run(agent(manner + "echo"))
    assert events == [Text(text="echo: hello"), Final(text="echo: hello")]


def test_yielded_texts_are_the_answer_and_get_a_final(manner: str) -> None:
    events = run(agent(manner + "pieces"))
    assert events == [Text(text="echo: "), Text(text="hello"), Final(text="echo: hello")]


def test_yielded_events_pass_through(manner: str) -> None:
    events = run(agent(manner + "events"))
    assert events[0] == ToolCall(id="1", name="look", arguments={"at": "sky"})
    assert of_type(events, type(python_agents.SPENT)) == [python_agents.SPENT]
    assert final(events) == Final(text="echo: hello", model="me", session_id="s-1")


def test_returned_data_is_the_output_and_its_json_the_text(manner: str) -> None:
    last = final(run(agent(manner + "data")))
    assert last.output == {"city": "Bern", "task": "digest", "numbers": [1, 2]}
    assert json.loads(last.text) == last.output


def test_returning_nothing_is_an_empty_answer() -> None:
    assert run(agent("nothing")) == [Final()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("opaque", "of type lock"),
        ("not_text", "of type int"),
        ("too_late", "after its Final"),
        ("exits", "SystemExit: enough"),
    ],
)
def test_what_a_function_must_not_do_is_explained(name: str, words: str) -> None:
    problem = failure(agent(name))
    assert problem.error_class is ErrorClass.AGENT
    assert words in problem.message


def test_an_exception_fails_the_agent_and_its_traceback_is_a_note(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", "planted-in-an-exception")
    redactor.register("planted-in-an-exception")
    problem = failure(agent(manner + "broken"))
    assert (problem.error_class, problem.message) == (ErrorClass.AGENT, "ValueError: cannot do hello with [secret]")
    (note,) = problem.__notes__
    assert "python_agents.py" in note
    assert "planted-in" not in note


def test_a_runtime_failure_passes_as_it_is(manner: str) -> None:
    problem = failure(agent(manner + "limited"))
    assert problem.error_class is ErrorClass.RATE_LIMIT
    assert (problem.message, problem.retry_after, problem.status, problem.code) == ("slow down", 7.5, 429, "rate")


def test_what_a_function_prints_is_no_event_and_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert final(run(agent("talkative"))).text == "read ''"
    assert capfd.readouterr().err == '{"kind": "text", "text": "not an event"}\nraw output\nof a child\n'


def test_a_process_that_dies_is_explained() -> None:
    problem = failure(agent("crashes"))
    assert (problem.error_class, problem.status) == (ErrorClass.AGENT, -9)
    assert "signal 9" in problem.message


def test_a_thread_that_a_function_leaves_does_not_hold_the_result_back() -> None:
    assert final(run(agent("leaves_a_thread", grace=0.1))).text == "done"


def test_the_child_does_not_import_the_engine() -> None:
    modules = json.loads(final(run(agent("modules"))).text)
    heavy = {"dagster", "sqlalchemy", "httpx", "aiohttp", "pandas"}
    assert heavy.isdisjoint(modules)


def test_the_child_finds_what_this_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "found_by_path.py").write_text("def agent(invocation):\n    return __file__\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = final(run(PythonRuntime(PythonConfig(function="found_by_path:agent")))).text
    assert told == str(tmp_path / "found_by_path.py")


def hanging(tmp_path: Path, name: str, grace: float) -> tuple[asyncio.Task[list[AgentEvent]], Path]:
    told = tmp_path / "pids"
    return asyncio.create_task(collect(agent(name, grace=grace), invocation(str(told)))), told


def test_cancelling_ends_a_synchronous_function_and_its_children(tmp_path: Path) -> None:
    async def main() -> None:
        task, told = hanging(tmp_path, "hangs", grace=0.2)
        await a_until(lambda: os.path.exists(told))
        pids = [int(pid) for pid in told.read_text().split()]
        assert all(map(is_alive, pids))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await a_until(lambda: not any(map(is_alive, pids)))

    asyncio.run(main())


def test_a_synchronous_function_can_tidy_up_when_it_is_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        task, told = hanging(tmp_path, "tidies_up", grace=60)
        await a_until(lambda: os.path.exists(told))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (tmp_path / "pids.tidied").exists()


def test_an_asynchronous_function_is_cancelled_in_place() -> None:
    reached: list[str] = []

    async def waits(invocation: Invocation) -> str:
        try:
            reached.append("started")
            await asyncio.Event().wait()
        finally:
            reached.append("ended")
        return "never"

    async def main() -> None:
        task = asyncio.create_task(collect(PythonRuntime.of(waits), invocation()))
        await a_until(lambda: reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert reached == ["started", "ended"]


def test_killing_this_process_ends_a_synchronous_function_too(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    script = (
        "from agent_pipelines_tests.runtimes.invoking import run\n"
        "from agent_pipelines_tests.runtimes.test_python import agent\n"
        f"run(agent('hangs'), {str(told)!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        until(told.exists)
        pids = [int(pid) for pid in told.read_text().split()]
        parent.send_signal(signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)))


def test_a_callable_can_be_given_in_code() -> None:
    async def nested(invocation: Invocation) -> str:
        return "nested"

    async def with_more(invocation: Invocation, more: str) -> str:
        return more

    assert final(run(PythonRuntime.of(nested))).text == "nested"
    assert final(run(PythonRuntime.of(functools.partial(with_more, more="partial")))).text == "partial"
    assert final(run(PythonRuntime.of(python_agents.Agent()))).text == "echo: hello"
    assert final(run(PythonRuntime.of(python_agents.echo))).text == "echo: hello"


def test_a_synchronous_callable_that_cannot_be_imported_is_refused() -> None:
    def nested(invocation: Invocation) -> Iterator[str]:
        yield "never"

    for callable_ in (
        nested,
        lambda invocation: "never",
        python_agents.Agent().sync_method,
        functools.partial(python_agents.echo),
    ):
        with pytest.raises(DefinitionError, match="top level of a module, or make it `async def`") as caught:
            PythonRuntime.of(callable_)
        assert caught.value.field == "function"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("no.such.module:agent", "No module named 'no'"),
        (f"{MODULE}:missing", "missing"),
        (f"{MODULE}:SPENT", "is not a function"),
    ],
)
def test_a_function_that_does_not_exist_is_named(function: str, words: str) -> None:
    problem = failure(PythonRuntime(PythonConfig(function=function)))
    assert problem.error_class is ErrorClass.NOT_FOUND
    assert function in problem.message
    assert words in problem.message


def test_a_module_that_fails_to_import_fails_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    problem = failure(PythonRuntime(PythonConfig(function="broken_module:agent")))
    assert problem.error_class is ErrorClass.AGENT
    assert "nowhere_to_be_found" in problem.message


def test_the_name_of_a_function_has_a_form() -> None:
    with pytest.raises(ValidationError):
        PythonConfig(function="acme.agents.summarise")
