"""Work that was interrupted goes on from its last boundary, and repeats nothing that has a receipt."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent_pipelines import effects
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Checkpoint, Text
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.tick import CONTINUATION, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.python import PythonRuntime
from agent_pipelines.store.tables import effects as effects_table
from agent_pipelines_tests.execution.conftest import Execute, invocation, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime

POINTS = ("one before the intent", "two in the effect", "two before the receipt", "three after the receipt")
"""Where the process dies on the way of its effects."""


def test_the_next_attempt_gets_the_last_checkpoint(execute: Execute) -> None:
    half_way = Checkpoint(name="half way", data={"read": 500})
    failing = [Checkpoint(name="begun"), half_way, RuntimeFailure(ErrorClass.SERVER, "HTTP 500")]
    runtime = ScriptedRuntime(failing, ["done"])
    execute(runtime)
    assert [seen.checkpoint for seen in runtime.seen] == [None, half_way]


def test_a_run_that_resumes_gets_the_last_checkpoint_from_the_journal(hub: Hub, execute: Execute) -> None:
    request = invocation()
    half_way = Checkpoint(name="half way", data={"read": 500})
    failing = [half_way, Text(text="so far"), RuntimeFailure(ErrorClass.AUTHENTICATION, "HTTP 401")]
    execute(ScriptedRuntime(failing), invocation=request, run=RunRef(run_id="a"))
    runtime = ScriptedRuntime(["done"])
    result = execute(runtime, invocation=request, run=RunRef(run_id="b", parent_run_id="a", resumes=True))
    assert result.status is Status.SUCCEEDED
    assert [seen.checkpoint for seen in runtime.seen] == [half_way]
    with hub.database.reading() as connection:
        stored = hub.executions.get(connection, result.execution_id)
    assert stored is not None
    assert stored.invocation.checkpoint is None  # the journal has it; it is not stored once more


def test_an_agent_in_this_process_uses_the_effects_of_its_execution(hub: Hub, execute: Execute) -> None:
    acted: list[str] = []

    async def act() -> str:
        acted.append("acted")
        return "T-1"

    async def work(invocation: Invocation) -> str:
        ticket = await effects.once("ticket", act)
        if len(acted) == 1 and not invocation.checkpoint:
            acted.append("failed")
            raise RuntimeFailure(ErrorClass.SERVER, "after the ticket")
        return ticket

    result = execute(PythonRuntime.of(work))
    assert (result.text, result.attempts, acted) == ("T-1", 2, ["acted", "failed"])
    with hub.database.reading() as connection:
        (effect,) = hub.ledger.effects.list(connection, execution_id=result.execution_id)
    assert (effect.name, effect.receipt, effect.path) == ("ticket", "T-1", "app/job")


def test_outside_of_an_execution_there_are_no_effects() -> None:
    with pytest.raises(effects.AgentPipelinesError, match=r"effects\.of"):
        effects.once("ticket", lambda: None)


class Work:
    """An execution in a process of its own, which may be told where to die."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.done = directory / "done"
        self.die = directory / "die"
        self.url = hub.database.url.render_as_string(hide_password=False)
        self.request = invocation()

    def run(self, number: int, die: str = "") -> int:
        """Run it, as run `number`, which resumes the one before; returns the exit code."""
        self.die.write_text(die)
        if number:
            with self.hub.database.transaction() as connection:
                stored = self.hub.executions.of_key(connection, self.request.idempotency_key)
                assert stored is not None
                self.hub.executions.close_lost(connection, stored.id, "its process was lost")
        given = {"url": self.url, "request": self.request.model_dump(mode="json"), "number": number}
        process = subprocess.run(
            [sys.executable, "-m", "agent_pipelines_tests.execution.dying_agent", str(self.done), str(self.die)],
            input=json.dumps(given),
            text=True,
            check=False,
        )
        return process.returncode

    def happened(self) -> Counter[str]:
        return Counter(self.done.read_text().split() if self.done.exists() else ())


@pytest.fixture
def work(hub: Hub, tmp_path: Path) -> Work:
    return Work(hub, tmp_path)


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_whatever_point_it_is_killed_at_nothing_is_lost_or_doubled(work: Work, kind: str) -> None:
    work.request = work.request.model_copy(update={"variables": {"kind": kind}})
    points = POINTS if kind == "async" else POINTS[1:3]
    for number, point in enumerate(points):
        assert work.run(number, point) == -signal.SIGKILL
    assert work.run(len(points)) == 0
    assert work.happened() == {"one": 1, "two": 1, "three": 1}
    with work.hub.database.reading() as connection:
        stored = work.hub.executions.of_key(connection, work.request.idempotency_key)
        kept = connection.execute(sa.select(sa.func.count()).select_from(effects_table)).scalar()
    assert stored is not None
    assert (stored.status, stored.text, kept) == (Status.SUCCEEDED, "one two three", 3)


def _lose(hub: Hub, request: Invocation, task: TaskSpec, *, at_work: bool) -> str:
    """Leave what a process leaves that was killed before, or while, its agent was at work."""
    with hub.database.transaction() as connection:
        frozen = request.model_copy(update={"spec_hash": hub.ledger.specs.put(connection, task)})
        hub.ticks.claim(
            connection, request.task_key, request.trigger, request.occurrence, origin=request.origin, due_at=request.due_at
        )
        admitted = hub.executions.admit(connection, frozen, RunRef(run_id="a"), dedupe_key=None, trace_id="t").execution
        if at_work:
            hub.executions.start_attempt(connection, admitted.id, 1, run_id="a", agent="worker", node="n1")
        hub.executions.close_lost(connection, admitted.id, "its process was lost")
        hub.continuations.look(connection)
    return admitted.id


def _status(hub: Hub, execution_id: str) -> tuple[Status, ErrorClass | None, int]:
    with hub.database.reading() as connection:
        stored = hub.executions.get(connection, execution_id)
    assert stored is not None
    return stored.status, stored.error_class, stored.resumptions


def _continuation(hub: Hub) -> Tick | None:
    with hub.database.transaction() as connection:
        ticks = hub.ticks.take(connection, lane="run", until=hub.clock.now(), limit=10)
    return next((tick for tick in ticks if tick.trigger == CONTINUATION), None)


def test_what_was_lost_before_its_agent_was_asked_goes_on_by_itself(hub: Hub, execute: Execute) -> None:
    request = invocation()
    lost = _lose(hub, request, spec(), at_work=False)
    assert _status(hub, lost) == (Status.WAITING, None, 0)
    tick = _continuation(hub)
    assert tick is not None
    assert launch_of(tick)[1].resume
    result = execute(ScriptedRuntime(["done"]), invocation=request, run=RunRef(run_id="b", resumes=True))
    assert (result.execution_id, result.text) == (lost, "done")
    assert _status(hub, lost) == (Status.SUCCEEDED, None, 1)
    with hub.database.transaction() as connection:
        assert hub.continuations.look(connection) == 0


@pytest.mark.parametrize("retry", [{"resumes": 1}, {"idempotent": True}])
def test_what_was_lost_at_work_goes_on_by_itself_if_its_task_says_so(hub: Hub, retry: dict[str, Any]) -> None:
    lost = _lose(hub, invocation(), spec(retry=retry), at_work=True)
    assert _status(hub, lost) == (Status.WAITING, None, 0)
    assert _continuation(hub) is not None


@pytest.mark.parametrize(("retry", "at_work"), [({}, True), ({"resumes": 0}, False)])
def test_otherwise_what_was_lost_has_failed(hub: Hub, retry: dict[str, Any], at_work: bool) -> None:
    lost = _lose(hub, invocation(), spec(retry=retry), at_work=at_work)
    assert _status(hub, lost)[0] is Status.FAILED
    assert _continuation(hub) is None


def test_it_goes_on_by_itself_a_limited_number_of_times(hub: Hub) -> None:
    request, task = invocation(), spec(retry={"resumes": 2})
    lost = _lose(hub, request, task, at_work=True)
    for number, run_id in enumerate(("b", "c"), start=1):
        with hub.database.transaction() as connection:
            frozen = request.model_copy(update={"spec_hash": task.spec_hash})
            hub.executions.admit(connection, frozen, RunRef(run_id=run_id, resumes=True), dedupe_key=None, trace_id="t")
            hub.executions.start_attempt(connection, lost, number + 1, run_id=run_id, agent="worker", node="n1")
            hub.executions.close_lost(connection, lost, "its process was lost")
    assert _status(hub, lost) == (Status.FAILED, ErrorClass.UNKNOWN_OUTCOME, 2)


def test_an_effect_that_nobody_knows_of_is_waited_for_and_then_the_agent_is_asked_again(hub: Hub, execute: Execute) -> None:
    request = invocation()
    acted: list[str] = []

    async def act() -> str:
        acted.append("acted")
        raise ConnectionError("no answer")

    async def work(invocation: Invocation) -> str:
        return f"filed {await effects.once('ticket', act)}"

    with hub.database.transaction() as connection:
        hub.ticks.claim(
            connection, request.task_key, request.trigger, request.occurrence, origin=request.origin, due_at=request.due_at
        )
    waiting = execute(PythonRuntime.of(work), invocation=request, run=RunRef(run_id="a"))
    assert waiting.status is Status.WAITING
    with hub.database.transaction() as connection:
        (asked,) = hub.human_tasks.list(connection, is_open=True)
        assert asked.subject == "effect"
        hub.answers.answer(connection, asked.id, "done", actor="kim", data="T-7")
    asyncio.run(hub.poller({}).look())
    assert _continuation(hub) is not None
    result = execute(PythonRuntime.of(work), invocation=request, run=RunRef(run_id="b", resumes=True))
    assert (result.status, result.text, acted) == (Status.SUCCEEDED, "filed T-7", ["acted"])
    with hub.database.reading() as connection:
        first, second = hub.executions.attempts.of(connection, result.execution_id)
    assert (first.status, first.error_class, second.status) == ("failed", ErrorClass.UNKNOWN_OUTCOME, "succeeded")
    assert first.retry_decision is not None
    assert "kim answered: done" in first.retry_decision
