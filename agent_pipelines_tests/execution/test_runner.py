import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, IllegalTransition, RuntimeFailure, Stage
from agent_pipelines.core.event import (
    AgentEvent,
    Checkpoint,
    Final,
    Handle,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    UsageReport,
)
from agent_pipelines.core.execution import CheckResult, ExecutionResult, RunRef, Status, Verdict
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.secrets import redactor
from agent_pipelines.execution.checks import Check
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredAttempt, StoredExecution
from agent_pipelines.store.database import Connection, Operation
from agent_pipelines_tests.execution.conftest import Execute, invocation, spec
from agent_pipelines_tests.execution.scripted import HANG, ScriptedRuntime, agent

DOWN = RuntimeFailure(ErrorClass.SERVER, "HTTP 500", status=500)


def _stored(hub: Hub, result: ExecutionResult) -> StoredExecution:
    with hub.database.reading() as connection:
        stored = hub.executions.get(connection, result.execution_id)
    assert stored is not None
    return stored


def _attempts(hub: Hub, result: ExecutionResult) -> list[StoredAttempt]:
    with hub.database.reading() as connection:
        return list(hub.executions.attempts.of(connection, result.execution_id))


async def _run(hub: Hub, runtime: ScriptedRuntime, begins_at: int) -> ExecutionResult:
    return await hub.runner.run(invocation(), spec(), agent(runtime), run=RunRef(run_id="r"), begins_at=begins_at)


def test_what_is_made_ready_ahead_asks_the_agent_on_its_instant(hub: Hub, clock: ManualClock) -> None:
    begins_at = clock.now() + 700_000
    asked_at: list[int] = []

    class Noting(ScriptedRuntime):
        async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
            asked_at.append(clock.now())
            async for event in super().stream(invocation):
                yield event

    result = asyncio.run(_run(hub, Noting([Final(text="done")]), begins_at))
    stored, (attempt,) = _stored(hub, result), _attempts(hub, result)
    assert asked_at == [begins_at]
    assert stored.created_at == attempt.started_at == begins_at
    assert stored.invocation.deadline_at == begins_at + round(spec().timeout.total * 1_000_000)


def test_a_success_leaves_the_whole_record(hub: Hub, execute: Execute) -> None:
    runtime = ScriptedRuntime(
        [
            Reasoning(text="let me look"),
            Text(text="It is "),
            Text(text="fine."),
            ToolCall(id="1", name="search", arguments={"q": "x"}),
            ToolResult(id="1", name="search", output=["y"]),
            Handle(id="remote-7"),
            Checkpoint(name="searched"),
            UsageReport(usage=Usage(input_tokens=100, output_tokens=20, requests=1), model="gpt-4o"),
            Final(text="It is fine.", finish_reason="stop", model="gpt-4o"),
        ]
    )
    request = invocation()
    result = execute(runtime, invocation=request, spec=spec(prompt="Look at {{ task }}", system="Be brief"))
    assert (result.status, result.text, result.attempts) == (Status.SUCCEEDED, "It is fine.", 1)
    stored = _stored(hub, result)
    assert stored.usage.total_tokens == 120
    assert stored.cost_usd is not None
    assert stored.cost_usd > 0
    assert [(message.role, message.content) for message in runtime.seen[0].messages] == [
        ("system", "Be brief"),
        ("user", "Look at job"),
    ]
    assert stored.prompt_version == runtime.seen[0].prompt_version
    [attempt] = _attempts(hub, result)
    assert (attempt.node, attempt.handle, attempt.status, attempt.model) == ("n1", "remote-7", "succeeded", "gpt-4o")
    with hub.database.reading() as connection:
        entries = hub.ledger.journal.read(connection, result.execution_id)
        spans = hub.ledger.spans.read(connection, result.execution_id)
        tick = hub.ticks.find(connection, request.task_key, request.trigger, request.occurrence)
        outbox = hub.ledger.outbox.after(connection, 0)
    kinds = [entry.kind for entry in entries]
    assert kinds == ["reasoning", "text", "tool_call", "tool_result", "handle", "checkpoint", "usage", "final"]
    assert [entry.seq for entry in entries] == list(range(1, 9))
    assert entries[1].body == {"text": "It is fine."}
    assert {span.name for span in spans} == {
        "execute app/job",
        "admit",
        "compose",
        "invoke_agent worker",
        "execute_tool search",
        "settle",
    }
    assert len({span.trace_id for span in spans}) == 1
    by_id = {span.span_id: span for span in spans}
    tool = next(span for span in spans if span.name == "execute_tool search")
    assert tool.parent_id is not None
    assert by_id[tool.parent_id].name == "invoke_agent worker"
    assert tick is not None
    assert (tick.verdict, tick.execution_id) == (Verdict.RAN, result.execution_id)
    assert [(row.kind, row.execution_id) for row in outbox] == [("execution.succeeded", result.execution_id)]


def test_a_record_is_the_same_if_every_write_is_done_twice(hub: Hub, execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    once = hub.database.write

    async def twice(operation: Operation[Any]) -> Any:
        def undone(connection: Connection) -> None:
            operation(connection)
            raise KeyError("another of the group has failed")

        with pytest.raises(KeyError):
            await once(undone)
        return await once(operation)

    monkeypatch.setattr(hub.database, "write", twice)
    result = execute(ScriptedRuntime([Text(text="Hm"), DOWN], [Text(text="Ha"), "done"]), spec=spec(prompt="Go", emits="gone"))
    assert (result.status, result.attempts) == (Status.SUCCEEDED, 2)
    assert [attempt.status for attempt in _attempts(hub, result)] == ["failed", "succeeded"]
    with hub.database.reading() as connection:
        entries = hub.ledger.journal.read(connection, result.execution_id)
        names = sorted(span.name for span in hub.ledger.spans.read(connection, result.execution_id))
        outbox = hub.ledger.outbox.after(connection, 0)
        assert result.session_id is not None
        turns = hub.sessions.turns(connection, result.session_id)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert names == ["admit", "compose", "execute app/job", "invoke_agent worker", "invoke_agent worker", "settle"]
    assert len(outbox) == len(turns) == 1


def test_an_attempt_that_began_while_its_execution_was_cancelled_ends_with_it(
    hub: Hub, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = hub.database.write
    writes: list[str] = []

    async def cancelled_at_the_third(operation: Operation[Any]) -> Any:
        result = await write(operation)
        writes.append("done")
        if len(writes) == 3:  # after the declared nodes and the admission
            raise asyncio.CancelledError
        return result

    monkeypatch.setattr(hub.database, "write", cancelled_at_the_third)
    runtime = ScriptedRuntime(["never asked"])
    with pytest.raises(asyncio.CancelledError):
        execute(runtime)
    with hub.database.reading() as connection:
        [stored] = hub.executions.list(connection)
        [attempt] = hub.executions.attempts.of(connection, stored.id)
    assert (stored.status, attempt.status, runtime.seen) == (Status.CANCELLED, "cancelled", [])


def test_two_failures_then_success_are_three_attempts_with_their_errors(hub: Hub, clock: ManualClock, execute: Execute) -> None:
    runtime = ScriptedRuntime([DOWN], [RuntimeFailure(ErrorClass.RATE_LIMIT, "slow down", status=429)], ["done"])
    result = execute(runtime, spec=spec(retry={"delay": 1, "jitter": 0}))
    assert (result.status, result.attempts) == (Status.SUCCEEDED, 3)
    attempts = _attempts(hub, result)
    assert [attempt.error_class for attempt in attempts] == [ErrorClass.SERVER, ErrorClass.RATE_LIMIT, None]
    assert [attempt.error_stage for attempt in attempts] == [Stage.INVOKE, Stage.INVOKE, None]
    assert [attempt.error_status for attempt in attempts] == [500, 429, None]
    assert [attempt.retry_decision for attempt in attempts] == ["retried after 1.00 s", "retried after 2.00 s", None]
    assert clock.sleeps == [1.0, 2.0]


def test_waits_grow_and_stay_within_the_declared_jitter(clock: ManualClock, execute: Execute) -> None:
    execute(ScriptedRuntime([DOWN]), spec=spec(retry={"max_attempts": 4, "delay": 10, "max_delay": "1h"}))
    assert clock.sleeps == [pytest.approx(10, rel=0.1), pytest.approx(20, rel=0.1), pytest.approx(40, rel=0.1)]


def test_the_runtime_may_ask_for_a_longer_wait(clock: ManualClock, execute: Execute) -> None:
    limited = RuntimeFailure(ErrorClass.RATE_LIMIT, "later", status=429, retry_after=30)
    assert execute(ScriptedRuntime([limited], ["ok"])).status is Status.SUCCEEDED
    assert clock.sleeps == [30]


@pytest.mark.parametrize(
    ("failure", "policy", "words"),
    [
        (RuntimeFailure(ErrorClass.AUTHENTICATION, "no"), {}, "does not retry authentication"),
        (RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "cut"), {}, "the outcome is unknown and the request is not idempotent"),
        (RuntimeFailure(ErrorClass.RATE_LIMIT, "tomorrow", retry_after=86_400), {}, "left"),
        (DOWN, {"max_attempts": 1}, "all 1 attempts are used"),
        (DOWN, {"errors": ["timeout"]}, "does not retry server"),
    ],
)
def test_what_is_not_retried_says_why(
    hub: Hub, execute: Execute, failure: RuntimeFailure, policy: dict[str, object], words: str
) -> None:
    result = execute(ScriptedRuntime([failure], ["never"]), spec=spec(retry=policy))
    assert (result.status, result.error_class, result.attempts) == (Status.FAILED, failure.error_class, 1)
    assert words in (_attempts(hub, result)[0].retry_decision or "")


def test_an_idempotent_request_is_repeated_after_an_unknown_outcome(execute: Execute) -> None:
    cut = RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "cut")
    assert execute(ScriptedRuntime([cut], ["ok"]), spec=spec(retry={"idempotent": True})).status is Status.SUCCEEDED


def test_a_hanging_attempt_is_cut_at_its_limit_and_the_work_stopped(hub: Hub, execute: Execute) -> None:
    runtime = ScriptedRuntime([Text(text="half an ans"), HANG], ["done"])
    result = execute(runtime, spec=spec(timeout={"attempt": 0.05}))
    assert (result.status, result.attempts, runtime.stopped) == (Status.SUCCEEDED, 2, 1)
    first = _attempts(hub, result)[0]
    assert (first.error_class, first.error_message) == (ErrorClass.TIMEOUT, "ended after 0.05 s, the limit of an attempt")
    with hub.database.reading() as connection:
        assert hub.ledger.journal.read(connection, result.execution_id)[0].body == {"text": "half an ans"}


def test_each_attempt_moves_on_to_the_next_node(hub: Hub, execute: Execute) -> None:
    result = execute(ScriptedRuntime([DOWN]), ScriptedRuntime([DOWN]))
    assert [attempt.node for attempt in _attempts(hub, result)] in (["n1", "n2", "n1"], ["n2", "n1", "n2"])
    assert result.status is Status.FAILED


def test_an_adapter_that_breaks_is_our_fault_and_recorded(hub: Hub, execute: Execute) -> None:
    result = execute(ScriptedRuntime([ZeroDivisionError("oops")]))
    assert (result.status, result.error_class, result.error_message) == (
        Status.FAILED,
        ErrorClass.INTERNAL,
        "ZeroDivisionError: oops",
    )


def test_a_stream_without_an_end_is_no_success(execute: Execute) -> None:
    result = execute(ScriptedRuntime([Text(text="and then")]), spec=spec(retry={"max_attempts": 1}))
    assert (result.status, result.error_class) == (Status.FAILED, ErrorClass.PROTOCOL)


SCHEMA = {
    "type": "object",
    "required": ["n"],
    "properties": {"n": {"type": "integer"}, "items": {"type": "array", "items": {"type": "string"}}},
}


def test_an_answer_that_violates_the_schema_fails_with_the_exact_path(execute: Execute) -> None:
    result = execute(
        ScriptedRuntime(['{"n": 1, "items": ["a", 2]}']), spec=spec(output={"schema": SCHEMA}, retry={"max_attempts": 1})
    )
    assert (result.status, result.error_class, result.error_stage) == (Status.FAILED, ErrorClass.OUTPUT, Stage.SETTLE)
    assert "$.items[1]: 2 is not of type 'string'" in (result.error_message or "")


@pytest.mark.parametrize("answer", ['{"n": 1}', '```json\n{"n": 1}\n```', 'Here it is:\n```\n{"n": 1}\n```\nBye'])
def test_an_answer_in_a_fence_is_read(execute: Execute, answer: str) -> None:
    assert execute(ScriptedRuntime([answer]), spec=spec(output={"schema": SCHEMA})).output == {"n": 1}


def test_an_answer_that_is_no_json_is_asked_for_again(execute: Execute) -> None:
    result = execute(ScriptedRuntime(["I would rather not"], ['{"n": 2}']), spec=spec(output={"schema": SCHEMA}))
    assert (result.status, result.output, result.attempts) == (Status.SUCCEEDED, {"n": 2}, 2)


def _check(found: object, *, blocking: bool = True) -> Check:
    def function(output: object, _invocation: Invocation) -> object:
        if isinstance(found, Exception):
            raise found
        return found

    return Check("judge", blocking, function)


@pytest.mark.parametrize("found", [False, "not good", ValueError("boom"), 42, CheckResult(name="x", passed=False)])
def test_a_blocking_check_that_fails_fails_the_execution(execute: Execute, found: object) -> None:
    result = execute(ScriptedRuntime(["answer"]), checks=[_check(found)])
    assert (result.status, result.error_class) == (Status.FAILED, ErrorClass.CHECK)
    assert [check.passed for check in result.checks] == [False]
    assert result.checks[0].name == "judge"


def test_a_check_that_does_not_block_is_told(execute: Execute) -> None:
    result = execute(ScriptedRuntime(["answer"]), checks=[_check("meh", blocking=False)])
    assert result.status is Status.SUCCEEDED
    assert result.checks == (CheckResult(name="judge", passed=False, blocking=False, message="meh"),)


def test_the_gate_skips_without_asking_an_agent(hub: Hub, execute: Execute) -> None:
    runtime = ScriptedRuntime(["never"])
    request = invocation()
    result = execute(runtime, invocation=request, gate=lambda _: "no new commits")
    assert (result.status, result.reason, runtime.seen, result.usage.total_tokens) == (Status.SKIPPED, "no new commits", [], None)
    with hub.database.reading() as connection:
        tick = hub.ticks.find(connection, request.task_key, request.trigger, request.occurrence)
    assert tick is not None
    assert (tick.verdict, tick.reason) == (Verdict.SKIPPED, "no new commits")


def test_a_gate_that_breaks_fails_before_any_agent_is_asked(execute: Execute) -> None:
    runtime = ScriptedRuntime(["never"])

    def gate(_: Invocation) -> None:
        raise OSError("no disk")

    result = execute(runtime, gate=gate)
    assert (result.status, result.error_stage, runtime.seen) == (Status.FAILED, Stage.ADMIT, [])


def test_two_triggers_of_one_work_are_one_execution(hub: Hub, execute: Execute) -> None:
    runtime = ScriptedRuntime(["reviewed"])
    task = spec(deduplicate_by="{{ commit }}", variables={"commit": ""})
    first = execute(runtime, spec=task, invocation=invocation(variables={"commit": "c1"}))
    request = invocation(variables={"commit": "c1"}, trigger="pushed", origin="event")
    second = execute(runtime, spec=task, invocation=request)
    other = execute(runtime, spec=task, invocation=invocation(variables={"commit": "c2"}))
    assert (second.deduplicated_into, second.status) == (first.execution_id, Status.SUCCEEDED)
    assert other.deduplicated_into is None
    assert len(runtime.seen) == 2
    with hub.database.reading() as connection:
        tick = hub.ticks.find(connection, request.task_key, "pushed", request.occurrence)
    assert tick is not None
    assert (tick.verdict, tick.execution_id) == (Verdict.DEDUPLICATED, first.execution_id)


def test_a_second_run_of_a_tick_is_noted_in_the_journal_of_the_first(hub: Hub, execute: Execute) -> None:
    request = invocation()
    first = execute(ScriptedRuntime(["done"]), invocation=request)
    second = execute(ScriptedRuntime(["never"]), invocation=request, run=RunRef(run_id="second"))
    assert second.deduplicated_into == first.execution_id
    with hub.database.reading() as connection:
        assert hub.ledger.journal.read(connection, first.execution_id)[-1].body == {"run_id": "second"}


def test_a_second_run_of_a_tick_does_not_disturb_the_first_one_at_work(hub: Hub) -> None:
    request = invocation()

    class Interrupted(ScriptedRuntime):
        async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
            yield ToolCall(id="1", name="search")
            second = await hub.runner.run(request, spec(), agent(ScriptedRuntime(["never"])), run=RunRef(run_id="second"))
            assert second.deduplicated_into is not None
            yield Text(text="found")
            yield ToolResult(id="1", name="search")
            yield Final(text="done")

    runner = hub.runner.run(request, spec(), agent(Interrupted()), run=RunRef(run_id="first"))
    result = asyncio.run(runner)
    assert (result.status, result.attempts) == (Status.SUCCEEDED, 1)
    with hub.database.reading() as connection:
        entries = hub.ledger.journal.read(connection, result.execution_id)
    assert [(entry.seq, entry.kind) for entry in entries] == [
        (1, "tool_call"),
        (2, "duplicate_run"),
        (3, "text"),
        (4, "tool_result"),
        (5, "final"),
    ]


def test_re_executing_from_failure_goes_on_with_the_same_invocation(hub: Hub, execute: Execute) -> None:
    request = invocation(variables={"x": 1})
    first = execute(
        ScriptedRuntime([RuntimeFailure(ErrorClass.AUTHENTICATION, "no")]), invocation=request, run=RunRef(run_id="a")
    )
    runtime = ScriptedRuntime(["done"])
    again = execute(runtime, invocation=request, run=RunRef(run_id="b", parent_run_id="a", resumes=True))
    assert (again.execution_id, again.status) == (first.execution_id, Status.SUCCEEDED)
    assert [attempt.number for attempt in _attempts(hub, again)] == [1, 2]
    assert runtime.seen[0].idempotency_key == request.idempotency_key
    stored = _stored(hub, again)
    assert (stored.resumptions, stored.error_class, stored.run_id) == (1, None, "b")


def test_state_is_kept_only_by_a_success(hub: Hub, execute: Execute) -> None:
    task = spec(
        prompt="before: {{ state.baseline }}",
        output={"format": "json"},
        remember=["baseline"],
        retry={"max_attempts": 1},
    )
    runtime = ScriptedRuntime(['{"baseline": 7}'], [Final(text='{"baseline": 8}'), DOWN], ['{"other": 1}'], ['{"baseline": 9}'])
    results = [execute(runtime, spec=task) for _ in range(4)]
    assert [result.status for result in results] == [Status.SUCCEEDED, Status.FAILED, Status.FAILED, Status.SUCCEEDED]
    assert [seen.messages[-1].content for seen in runtime.seen] == ["before: null", "before: 7", "before: 7", "before: 7"]
    assert "baseline" in (results[2].error_message or "")
    with hub.database.reading() as connection:
        assert hub.state.read(connection, task.key) == {"baseline": 9}


def test_a_task_session_carries_the_conversation(execute: Execute) -> None:
    runtime = ScriptedRuntime(["pong 1"], ["pong 2"])
    task = spec(prompt="ping {{ item }}", session={"mode": "task"})
    for item in ("1", "2"):
        execute(runtime, spec=task, invocation=invocation(item=item))
    assert [message.content for message in runtime.seen[1].messages] == ["ping 1", "pong 1", "ping 2"]


def test_the_result_of_an_upstream_task_is_there_to_use(hub: Hub, execute: Execute) -> None:
    report = spec(name="report")
    execute(ScriptedRuntime(["all is well"]), spec=report, invocation=invocation(task="report"))
    runtime = ScriptedRuntime(["sent"])
    execute(runtime, spec=spec(dependencies=["report"], prompt="Send: {{ upstream['app/report'] }}"))
    assert runtime.seen[0].messages[-1].content == "Send: all is well"


def test_a_prompt_that_cannot_be_composed_is_a_recorded_failure(execute: Execute) -> None:
    result = execute(ScriptedRuntime(["never"]), spec=spec(prompt="{{ event.commit }}"))
    assert (result.status, result.error_class, result.error_stage) == (Status.FAILED, ErrorClass.CONTEXT, Stage.COMPOSE)


def test_success_sends_the_declared_event_with_the_output(hub: Hub, execute: Execute) -> None:
    task = spec(emits="report.ready", output={"format": "json"})
    result = execute(ScriptedRuntime(['{"balanced": true}']), spec=task)
    with hub.database.reading() as connection:
        [event] = hub.inbox.unclaimed(connection, ("default", "app", "next"), "event", "report.ready", since=0)
    assert (event.payload, event.key, event.source) == ({"balanced": True}, result.execution_id, "task:app/job")


def test_a_planted_secret_is_nowhere_in_the_record(hub: Hub, execute: Execute) -> None:
    secret = "correct-horse-battery"
    redactor.register(secret)
    runtime = ScriptedRuntime(
        [
            Text(text=f"the key is {secret[:10]}"),
            Text(text=f"{secret[10:]} indeed"),
            ToolCall(id="1", name="login", arguments={"password": secret}),
            Final(text=f"used {secret}", output={"key": secret}),
        ],
        [RuntimeFailure(ErrorClass.INVALID_REQUEST, f"wrong key {secret}")],
    )
    results = [execute(runtime, invocation=invocation(variables={"password": secret})) for _ in range(2)]
    with hub.database.reading() as connection:
        everything = [
            str(connection.exec_driver_sql(f"SELECT * FROM {table}").all())
            for table in (
                "executions",
                "attempts",
                "events",
                "spans",
                "ticks",
                "inbox",
                "outbox",
                "execution_texts",
                "session_turns",
            )
        ]
    assert secret not in "".join(everything)
    assert secret not in str(results)
    assert "the key is [secret] indeed" in everything[2]


def test_cancelling_stops_the_agent_and_is_recorded(hub: Hub) -> None:
    runtime = ScriptedRuntime([HANG])

    async def run() -> None:
        task = asyncio.create_task(hub.runner.run(invocation(), spec(), agent(runtime), run=RunRef(run_id="r")))
        await asyncio.to_thread(runtime.started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert runtime.stopped == 1
    with hub.database.reading() as connection:
        [stored] = hub.executions.list(connection)
        [attempt] = hub.executions.attempts.of(connection, stored.id)
        spans = hub.ledger.spans.read(connection, stored.id)
        entries = hub.ledger.journal.read(connection, stored.id)
    assert (stored.status, stored.error_class, attempt.status) == (Status.CANCELLED, ErrorClass.CANCELLED, "cancelled")
    assert {span.name for span in spans} >= {"invoke_agent worker", "execute app/job"}
    assert [(entry.kind, entry.body["done"]) for entry in entries] == [("cancelled", "closed its stream")]


def test_a_signal_cancels_settles_and_then_takes_its_course(hub: Hub) -> None:
    runtime = ScriptedRuntime([HANG])
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))

    def send_when_it_runs() -> None:
        runtime.started.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send_when_it_runs)
    sender.start()
    try:
        with pytest.raises(asyncio.CancelledError):
            hub.runner.execute(invocation(), spec(), agent(runtime), run=RunRef(run_id="r"))
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]
    with hub.database.reading() as connection:
        assert [stored.status for stored in hub.executions.list(connection)] == [Status.CANCELLED]


def test_it_works_inside_a_running_loop_as_in_a_notebook(execute: Execute) -> None:
    async def cell() -> ExecutionResult:
        return execute(ScriptedRuntime(["from a notebook"]))

    assert asyncio.run(cell()).text == "from a notebook"


def test_a_check_that_tells_a_secret_is_recorded_without_it(hub: Hub, execute: Execute) -> None:
    def reaches_the_database(output: object, invocation: Invocation) -> object:
        raise OSError("cannot connect to postgresql://bob:hunter2hunter2@db/x")

    check = Check("stored", blocking=False, function=reaches_the_database)
    result = execute(ScriptedRuntime(["done"]), checks=[check])
    assert [each.message for each in result.checks] == ["OSError: cannot connect to postgresql://[secret]@db/x"]
    assert "hunter2" not in str(_stored(hub, result).checks)


def test_an_endless_word_is_journaled_in_pieces_without_its_secrets(hub: Hub, execute: Execute) -> None:
    redactor.register("planted0secret1value")
    word = "x" * 5_000 + "planted0secret1value" + "y" * 9_000
    pieces = [Text(text=word[start : start + 7]) for start in range(0, len(word), 7)]
    result = execute(ScriptedRuntime([*pieces, Final(text="done")]))
    with hub.database.reading() as connection:
        texts = [entry.body["text"] for entry in hub.ledger.journal.read(connection, result.execution_id) if entry.kind == "text"]
    assert "".join(map(str, texts)) == word.replace("planted0secret1value", "[secret]")
    assert len(texts) > 2
    assert all(len(str(text)) < 10_000 for text in texts)


def test_a_run_that_was_taken_for_lost_ends_nothing_that_another_has_resumed(hub: Hub) -> None:
    request = invocation()
    resumed: list[ExecutionResult] = []

    class TakenForLost(ScriptedRuntime):
        async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
            with hub.database.transaction() as connection:
                (stored,) = hub.executions.list(connection)
                assert hub.executions.close_lost(connection, stored.id, "lost")
            run = RunRef(run_id="b", parent_run_id="a", resumes=True)
            resumed.append(await hub.runner.run(request, spec(), agent(ScriptedRuntime(["from b"])), run=run))
            yield Final(text="from a")

    with pytest.raises(IllegalTransition, match="it is not running here"):
        asyncio.run(hub.runner.run(request, spec(), agent(TakenForLost()), run=RunRef(run_id="a")))
    (result,) = resumed
    stored = _stored(hub, result)
    assert (stored.status, stored.run_id, stored.text) == (Status.SUCCEEDED, "b", "from b")
    with hub.database.reading() as connection:
        outbox = hub.ledger.outbox.after(connection, 0)
    assert [row.kind for row in outbox] == ["execution.succeeded"]


def test_a_cancellation_that_comes_while_a_success_is_written_leaves_the_success(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled_while_it_settles() -> None:
        loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(
            hub.runner.run(invocation(), spec(), agent(ScriptedRuntime(["x"])), run=RunRef(run_id="a"))
        )
        monkeypatch.setattr(hub.composer, "remember", lambda *_, **__: loop.call_soon_threadsafe(running.cancel))
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled_while_it_settles())
    with hub.database.reading() as connection:
        (stored,) = hub.executions.list(connection)
    assert stored.status is Status.SUCCEEDED


def test_a_follower_gets_the_result_of_the_tick_that_it_follows(hub: Hub, execute: Execute) -> None:
    report = spec(name="report")
    first = execute(ScriptedRuntime(["day one"]), spec=report, invocation=invocation(task="report"))
    execute(ScriptedRuntime(["day two"]), spec=report, invocation=invocation(task="report"))
    failed = execute(
        ScriptedRuntime([RuntimeFailure(ErrorClass.AUTHENTICATION, "no")]), spec=report, invocation=invocation(task="report")
    )
    mail = spec(dependencies=["report"], prompt="{{ upstream.get('app/report', 'nothing') }}")
    runtime = ScriptedRuntime(["sent"])
    for followed in (first, failed):
        request = invocation(trigger="after", origin="after")
        with hub.database.transaction() as connection:
            inputs = {"upstream_execution": followed.execution_id}
            hub.ticks.claim(
                connection, request.task_key, "after", request.occurrence, origin=request.origin, due_at=1, inputs=inputs
            )
        execute(runtime, spec=mail, invocation=request)
    assert [seen.messages[-1].content for seen in runtime.seen] == ["day one", "nothing"]
    assert runtime.seen[0].upstream_executions == {"app/report": first.execution_id}
