from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Final, Text
from agent_pipelines.core.execution import ExecutionResult, Status
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredAttempt
from agent_pipelines.runtimes.base import Capabilities
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines_tests.execution.conftest import Execute, invocation, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime

ONCE = {"max_attempts": 1}
DOWN = RuntimeFailure(ErrorClass.SERVER, "HTTP 500", status=500)
LIMITED = RuntimeFailure(ErrorClass.RATE_LIMIT, "HTTP 429", status=429)
CUT = RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "cut")


class Keeping(ScriptedRuntime):
    """Keeps sessions of its own."""

    capabilities = Capabilities(cancels=True, keeps_sessions=True)


def named(name: str, runtime: ScriptedRuntime) -> Agent:
    return Agent(name, [Node("main", runtime)])


def attempts_of(hub: Hub, result: ExecutionResult) -> list[StoredAttempt]:
    with hub.database.reading() as connection:
        return list(hub.executions.attempts.of(connection, result.execution_id))


@pytest.mark.parametrize("failure", [DOWN, LIMITED], ids=["5xx", "429"])
def test_another_agent_answers_and_the_switch_is_recorded(hub: Hub, execute: Execute, failure: RuntimeFailure) -> None:
    spare = ScriptedRuntime([Text(text="from b"), Final(text="from b")])
    task = spec(fallback=[{"agent": "spare"}], retry={"max_attempts": 2, "jitter": 0}, prompt="Go")
    result = execute(ScriptedRuntime([failure]), spec=task, others=[named("spare", spare)])
    assert (result.status, result.text, result.agent, result.fallback_from) == (Status.SUCCEEDED, "from b", "spare", "worker")
    assert result.metadata()["fallback_from"] == "worker"
    first, second, third = attempts_of(hub, result)
    assert [first.agent, second.agent, third.agent] == ["worker", "worker", "spare"]
    assert second.retry_decision == "not retried: all 2 attempts are used; fallback 1 is asked"
    with hub.database.reading() as connection:
        entries = hub.ledger.journal.read(connection, result.execution_id)
        spans = hub.ledger.spans.read(connection, result.execution_id)
    [switched] = [entry for entry in entries if entry.kind == "switched"]
    assert switched.body == {
        "fallback": 1,
        "from": "worker",
        "to": "spare",
        "parameters": {},
        "error_class": str(failure.error_class),
    }
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert "switch" in {span.name for span in spans}
    assert [message.content for message in spare.seen[0].messages] == ["Go"]


def test_an_error_that_a_retry_does_not_help_goes_on_at_once(hub: Hub, execute: Execute) -> None:
    refused = RuntimeFailure(ErrorClass.AUTHENTICATION, "who?")
    task = spec(fallback=[{"agent": "spare"}])
    result = execute(ScriptedRuntime([refused]), spec=task, others=[named("spare", ScriptedRuntime(["ok"]))])
    assert (result.status, result.attempts) == (Status.SUCCEEDED, 2)
    assert attempts_of(hub, result)[0].retry_decision == (
        "not retried: the policy of the task does not retry authentication; fallback 1 is asked"
    )


def test_each_fallback_has_all_attempts_and_the_next_comes_after_it(hub: Hub, execute: Execute) -> None:
    task = spec(fallback=[{"agent": "b"}, {"agent": "c"}], retry={"max_attempts": 2})
    others = [named("b", ScriptedRuntime([DOWN])), named("c", ScriptedRuntime(["from c"]))]
    result = execute(ScriptedRuntime([DOWN]), spec=task, others=others)
    assert [attempt.agent for attempt in attempts_of(hub, result)] == ["worker", "worker", "b", "b", "c"]
    assert result.text == "from c"


def test_a_fallback_is_only_for_its_errors(hub: Hub, execute: Execute) -> None:
    task = spec(fallback=[{"agent": "b", "errors": ["quota"]}, {"agent": "c"}], retry=ONCE)
    others = [named("b", ScriptedRuntime(["from b"])), named("c", ScriptedRuntime(["from c"]))]
    assert execute(ScriptedRuntime([DOWN]), spec=task, others=others).text == "from c"


def test_other_parameters_are_a_fallback_too(execute: Execute) -> None:
    runtime = ScriptedRuntime([DOWN], ["ok"])
    task = spec(fallback=[{"parameters": {"model": "small"}}], parameters={"model": "big", "n": 1}, retry=ONCE, prompt="Go")
    result = execute(runtime, spec=task)
    assert [seen.parameters for seen in runtime.seen] == [{"model": "big", "n": 1}, {"model": "small", "n": 1}]
    assert (result.status, result.agent, result.fallback_from) == (Status.SUCCEEDED, "worker", "worker")


def test_nobody_else_is_asked_after_an_unknown_outcome(execute: Execute) -> None:
    spare = ScriptedRuntime(["twice"])
    errors = ["unknown_outcome"]
    task = spec(fallback=[{"agent": "spare", "errors": errors}], retry={"classes": {"unknown_outcome": {"max_attempts": 5}}})
    result = execute(ScriptedRuntime([CUT]), spec=task, others=[named("spare", spare)])
    assert (result.status, result.error_class, result.attempts, spare.seen) == (
        Status.FAILED,
        ErrorClass.UNKNOWN_OUTCOME,
        1,
        [],
    )
    harmless = spec(fallback=[{"agent": "spare", "errors": errors}], retry={"idempotent": True, **ONCE})
    assert execute(ScriptedRuntime([CUT]), spec=harmless, others=[named("spare", spare)]).text == "twice"


def test_a_conversation_goes_on_with_the_fallback_and_back(hub: Hub, execute: Execute) -> None:
    task = spec(fallback=[{"agent": "spare"}], session={"mode": "task"}, retry=ONCE, prompt="Day {{ day }}", variables={"day": 0})
    own = Keeping([Final(text="one", session_id="r1")], [DOWN], [Final(text="three", session_id="r2")])
    spare = ScriptedRuntime([Final(text="two", session_id="other")])

    def day(number: int) -> ExecutionResult:
        return execute(own, spec=task, invocation=invocation(variables={"day": number}), others=[named("spare", spare)])

    first, second, third = day(1), day(2), day(3)
    assert first.session_id == second.session_id == third.session_id
    assert own.seen[1].remote_session_id == "r1"
    assert [message.content for message in spare.seen[0].messages] == ["Day 1", "one", "Day 2"]
    assert own.seen[2].remote_session_id is None
    assert [message.content for message in own.seen[2].messages] == ["Day 1", "one", "Day 2", "two", "Day 3"]


def test_a_fallback_that_is_the_same_again_is_refused() -> None:
    with pytest.raises(ValidationError, match="is the same again; name an `agent`, `parameters`, or both"):
        spec(fallback=[{"errors": ["quota"]}])


def test_a_class_has_a_policy_of_its_own(hub: Hub, execute: Execute, clock: Any) -> None:
    task = spec(retry={"max_attempts": 2, "jitter": 0, "classes": {"rate_limit": {"max_attempts": 4, "delay": "5s"}}})
    assert execute(ScriptedRuntime([LIMITED]), spec=task).attempts == 4
    assert clock.sleeps == [5, 10, 20]
    assert execute(ScriptedRuntime([DOWN]), spec=task).attempts == 2


def test_a_class_with_a_policy_is_tried_again(execute: Execute) -> None:
    task = spec(retry={"classes": {"quota": {"max_attempts": 2, "delay": "1h"}}}, timeout={"total": "3h"})
    result = execute(ScriptedRuntime([RuntimeFailure(ErrorClass.QUOTA, "used up")], ["ok"]), spec=task)
    assert (result.status, result.attempts) == (Status.SUCCEEDED, 2)


def test_the_tries_of_the_runtime_itself_count(hub: Hub, execute: Execute) -> None:
    failure = RuntimeFailure(ErrorClass.SERVER, "HTTP 500", tries=3)
    result = execute(ScriptedRuntime([failure]), spec=spec(retry={"max_attempts": 5}))
    first, second = attempts_of(hub, result)
    assert (first.runtime_tries, second.runtime_tries) == (3, 3)
    assert second.retry_decision == "not retried: all 5 attempts are used, 4 of them by the runtime itself"
    done = execute(ScriptedRuntime([Final(text="ok", tries=2)]))
    assert [attempt.runtime_tries for attempt in attempts_of(hub, done)] == [2]
