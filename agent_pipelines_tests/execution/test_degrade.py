from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure, Stage
from agent_pipelines.core.event import Text
from agent_pipelines.core.execution import Degraded, Status
from agent_pipelines.core.invocation import Origin
from agent_pipelines.execution.checks import Check
from agent_pipelines.hub import Hub
from agent_pipelines_tests.execution.conftest import Execute, invocation, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime

DOWN = RuntimeFailure(ErrorClass.SERVER, "HTTP 500", status=500)
ONCE = {"max_attempts": 1}
CACHED = {"to": "cached", "max_age": "1d"}
DAY = 86_400_000_000


def down(*steps: Any, **changes: Any) -> Any:
    return spec(degrade=steps, retry=ONCE, prompt="Go", **changes)


def test_the_newest_result_is_given_and_marked_stale(hub: Hub, execute: Execute, clock: ManualClock) -> None:
    good = execute(ScriptedRuntime(["fine"]), spec=down(CACHED))
    clock.time += DAY // 2
    stale = execute(ScriptedRuntime([DOWN]), spec=down(CACHED, emits="told", session={"mode": "task"}))
    assert (stale.status, stale.text, stale.degraded, stale.stale_from) == (
        Status.SUCCEEDED,
        "fine",
        Degraded.STALE,
        good.execution_id,
    )
    assert stale.reason == "stale, the result of 2026-01-01T00:00:00Z: server: HTTP 500"
    assert {"degraded": "stale", "stale_from": good.execution_id}.items() <= stale.metadata().items()
    with hub.database.reading() as connection:
        [attempt] = hub.executions.attempts.of(connection, stale.execution_id)
        assert (attempt.status, attempt.error_class) == ("failed", ErrorClass.SERVER)
        # It leaves no event and no turn: nothing was reported, nothing was said.
        assert hub.inbox.list(connection) == []
        assert stale.session_id is not None
        assert hub.sessions.count(connection, stale.session_id) == 0
        outbox = hub.ledger.outbox.after(connection, 0)
    assert [row.body["degraded"] for row in outbox] == [None, "stale"]
    # One that is stale itself makes nothing newer.
    clock.time += DAY // 2 + 1
    assert execute(ScriptedRuntime([DOWN]), spec=down(CACHED)).status is Status.FAILED


def test_what_was_said_so_far_is_a_result_if_it_is_one(execute: Execute) -> None:
    partial = {"to": "partial"}
    said = execute(ScriptedRuntime([Text(text="Two of "), Text(text="three."), DOWN]), spec=down(partial))
    assert (said.status, said.text, said.degraded) == (Status.SUCCEEDED, "Two of three.", Degraded.PARTIAL)
    schema = {"output": {"schema": {"type": "object", "required": ["n"]}}}
    broken = execute(ScriptedRuntime([Text(text='{"n": '), DOWN]), spec=down(partial, **schema))
    assert (broken.status, broken.degraded) == (Status.FAILED, None)
    whole = execute(ScriptedRuntime([Text(text='{"n": 1}'), DOWN]), spec=down(partial, **schema))
    assert (whole.output, whole.degraded) == ({"n": 1}, Degraded.PARTIAL)
    check = Check("long_enough", True, lambda output, _: len(str(output)) > 100)
    assert execute(ScriptedRuntime([Text(text="Hm"), DOWN]), spec=down(partial), checks=[check]).status is Status.FAILED


def test_people_are_asked_and_the_execution_says_so(hub: Hub, execute: Execute) -> None:
    result = execute(ScriptedRuntime([Text(text="Hm"), DOWN]), spec=down(CACHED, {"to": "human"}))
    with hub.database.reading() as connection:
        [asked] = hub.human_tasks.of_execution(connection, result.execution_id)
    assert (result.status, result.error_class, result.degraded) == (Status.FAILED, ErrorClass.SERVER, Degraded.HUMAN)
    assert result.reason == f"human task {asked.id} asks for the result"
    assert (asked.subject, asked.context["said"]) == ("degraded", "Hm")
    assert asked.question == "app/job has no result (server: HTTP 500). Work: what is the result?"


def test_another_task_is_requested_once_with_the_same_variables(hub: Hub, execute: Execute) -> None:
    task = down({"to": "task", "task": "short_job"})
    result = execute(ScriptedRuntime([DOWN]), spec=task, invocation=invocation(variables={"day": 3}))
    with hub.database.reading() as connection:
        tick = hub.ticks.find(connection, ("default", "app", "short_job"), "on_demand", result.execution_id)
    assert tick is not None
    assert (tick.inputs["variables"], tick.origin, tick.lane, tick.run_id) == ({"day": 3}, Origin.ON_DEMAND, "run", None)
    assert (result.status, result.degraded) == (Status.FAILED, Degraded.TASK)
    assert result.reason == f"task app/short_job was requested instead, tick {tick.id}"


def test_no_other_task_is_requested_after_an_unknown_outcome(execute: Execute) -> None:
    cut = RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "cut")
    result = execute(ScriptedRuntime([cut]), spec=down({"to": "task", "task": "short_job"}))
    assert (result.status, result.degraded) == (Status.FAILED, None)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"to": "cached"}, "`max_age` goes with `to: cached`"),
        ({"to": "task"}, "`task` goes with `to: task`"),
        ({"to": "task", "task": "job"}, "entry 1 requests the task itself"),
    ],
)
def test_an_incomplete_step_is_refused(step: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        down(step)


def test_work_whose_deadline_has_passed_does_not_begin(execute: Execute, clock: ManualClock) -> None:
    runtime = ScriptedRuntime(["late"])
    task = spec(service_level={"finish_within": "10m"})
    clock.time += 601_000_000
    result = execute(runtime, spec=task)
    assert (result.status, result.error_class, result.error_stage) == (Status.FAILED, ErrorClass.TIMEOUT, Stage.ADMIT)
    assert result.error_message == "the deadline was 2026-01-01T00:10:00Z, and the work had not begun"
    assert runtime.seen == []
    # What is done later on purpose has no deadline of its own.
    assert execute(runtime, spec=task, invocation=invocation(origin=Origin.BACKFILL)).status is Status.SUCCEEDED


def test_the_earliest_deadline_is_passed_to_the_runtime(execute: Execute, clock: ManualClock) -> None:
    runtime = ScriptedRuntime(["ok"])
    execute(runtime, spec=spec(service_level={"finish_within": "10m"}))
    execute(
        runtime, spec=spec(service_level={"finish_within": "10m"}), invocation=invocation(deadline_at=clock.now() + 60_000_000)
    )
    execute(runtime, spec=spec(timeout={"total": "5s", "attempt": "5s"}))
    assert [(seen.deadline_at or 0) - clock.now() for seen in runtime.seen] == [600_000_000, 60_000_000, 5_000_000]
