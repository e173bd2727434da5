from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines import effects
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.event import AgentEvent, Final, Usage, UsageReport
from agent_pipelines.core.execution import ExecutionResult, Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.hub import Hub
from agent_pipelines_tests.execution.conftest import Execute, invocation, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime

SPENT = UsageReport(usage=Usage(input_tokens=100, output_tokens=20), model="gpt-4o")


def cached(**changes: Any) -> Any:
    values = {"prompt": "Sum up {{ document }}", "variables": {"document": ""}, "cache": {"ttl": "1d"}}
    return spec(**{**values, **changes})


def about(document: str, **changes: Any) -> Any:
    return invocation(variables={"document": document}, **changes)


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime([SPENT, Final(text="short")])


def test_the_second_identical_call_costs_nothing_and_says_so(hub: Hub, execute: Execute, runtime: ScriptedRuntime) -> None:
    first = execute(runtime, spec=cached(), invocation=about("walrus"))
    second = execute(runtime, spec=cached(), invocation=about("walrus"))
    assert (second.status, second.text, second.cached_from) == (Status.SUCCEEDED, "short", first.execution_id)
    assert (second.usage.total_tokens, second.usage.cost_usd, second.attempts) == (0, 0, 0)
    assert second.metadata()["cached_from"] == first.execution_id
    assert len(runtime.seen) == 1
    with hub.database.reading() as connection:
        assert hub.executions.attempts.of(connection, second.execution_id) == []
        [kept] = hub.ledger.results.list(connection)
        stored = hub.executions.get(connection, second.execution_id)
    assert (kept.execution_id, kept.hits, kept.path) == (first.execution_id, 1, "app/job")
    assert stored is not None
    assert stored.invocation.messages[-1].content == "Sum up walrus"


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "Sum up in a word {{ document }}"},
        {"parameters": {"temperature": 1}},
        {"output": {"format": "json"}},
        {"cache": {"ttl": "1d", "version": "2"}},
        {"name": "other", "application": "app"},
        {"workspace": "other"},
    ],
)
def test_what_the_result_depends_on_makes_another_call(
    execute: Execute, changed: dict[str, Any], runtime: ScriptedRuntime
) -> None:
    execute(runtime, spec=cached(), invocation=about("walrus"))
    place = {"task": changed.get("name", "job"), "workspace": changed.get("workspace", "default")}
    result = execute(runtime, spec=cached(**changed), invocation=about("walrus", **place))
    assert result.cached_from is None
    assert len(runtime.seen) >= 2


def test_a_changed_document_is_another_call(execute: Execute, runtime: ScriptedRuntime) -> None:
    execute(runtime, spec=cached(), invocation=about("walrus"))
    assert execute(runtime, spec=cached(), invocation=about("walrus, revised")).cached_from is None


def test_a_changed_upstream_result_is_another_call(execute: Execute, runtime: ScriptedRuntime) -> None:
    source = spec(name="source", prompt="Go")
    task = cached(dependencies=["source"], prompt="Sum up {{ upstream['app/source'] }}")

    def read(document: str) -> ExecutionResult:
        execute(ScriptedRuntime([document]), spec=source, invocation=invocation(task="source"))
        return execute(runtime, spec=task)

    first, same, drifted = read("walrus"), read("walrus"), read("whale")
    assert [same.cached_from, drifted.cached_from] == [first.execution_id, None]


def test_a_result_expires(execute: Execute, runtime: ScriptedRuntime, clock: ManualClock) -> None:
    execute(runtime, spec=cached(), invocation=about("walrus"))
    clock.time += 86_400_000_000
    third = execute(runtime, spec=cached(), invocation=about("walrus"))
    assert third.cached_from is None
    assert execute(runtime, spec=cached(), invocation=about("walrus")).cached_from == third.execution_id


def test_a_declared_key_says_what_is_identical(execute: Execute, runtime: ScriptedRuntime) -> None:
    task = cached(cache={"ttl": "1d", "key": "{{ document | lower }}"}, prompt="At {{ logical_time }}: {{ document }}")
    first = execute(runtime, spec=task, invocation=about("Walrus"))
    later = about("walrus", logical_at=1_767_225_700_000_000)
    assert execute(runtime, spec=task, invocation=later).cached_from == first.execution_id


def test_a_failure_is_not_kept(execute: Execute) -> None:
    runtime = ScriptedRuntime([OSError("no")], ["ok"])
    assert execute(runtime, spec=cached(), invocation=about("x")).status is Status.FAILED
    assert execute(runtime, spec=cached(), invocation=about("x")).cached_from is None


def test_what_a_call_has_done_besides_is_not_left_out_the_next_time(hub: Hub, execute: Execute) -> None:
    done: list[str] = []

    class Acting(ScriptedRuntime):
        async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
            await effects.once("ticket", lambda key: done.append(key) or "opened")
            yield Final(text="ok")

    runtime = Acting(["unused"])
    execute(runtime, spec=cached(), invocation=about("x"))
    assert execute(runtime, spec=cached(), invocation=about("x")).cached_from is None
    assert len(done) == 2


def test_results_are_cleared_and_forgotten(hub: Hub, execute: Execute, runtime: ScriptedRuntime, clock: ManualClock) -> None:
    for document in ("a", "b"):
        execute(runtime, spec=cached(), invocation=about(document))
    with hub.database.transaction() as connection:
        assert hub.ledger.results.clear(connection, application="elsewhere") == 0
        assert hub.ledger.results.clear(connection, application="app", task="job") == 2
    execute(runtime, spec=cached(), invocation=about("a"))
    with hub.database.transaction() as connection:
        assert hub.ledger.results.forget(connection, expired_before=clock.now(), limit=10) == 0
        assert hub.ledger.results.forget(connection, expired_before=clock.now() + 2 * 86_400_000_000, limit=10) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"session": {"mode": "task"}}, "with session mode `task` every call is a new turn"),
        ({"session": {"mode": "named", "name": "desk"}}, "with session mode `named` every call is a new turn"),
        ({"risk": "high"}, "a task of risk `high` does something"),
    ],
)
def test_a_task_whose_calls_are_never_identical_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        cached(**changes)
