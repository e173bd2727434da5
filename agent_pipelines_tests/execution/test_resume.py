"""Work that was interrupted goes on from its last boundary, and repeats nothing that has a receipt."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent_pipelines import effects
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Checkpoint, Text
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.python import PythonRuntime
from agent_pipelines.store.tables import effects as effects_table
from agent_pipelines_tests.execution.conftest import Execute, invocation
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
