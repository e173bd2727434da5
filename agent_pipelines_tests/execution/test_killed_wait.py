"""Runs and pollers that are killed with SIGKILL, at each step of a wait in turn."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.engine.tick import CONTINUATION, Tick
from agent_pipelines.execution.asked import invocation_of
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.killed_wait import TASK, agent, asked, poller


def continuations(hub: Hub) -> Sequence[Tick]:
    with hub.database.reading() as connection:
        return hub.ticks.list(connection, trigger=CONTINUATION)


@pytest.mark.parametrize("boundary", ["begun", "handle", "poll", "arrive", "continue"])
def test_what_was_killed_is_brought_to_its_end_by_others(database: Database, tmp_path: Path, boundary: str) -> None:
    file = tmp_path / "begun"
    url = database.url.render_as_string(hide_password=False)
    killed = subprocess.run(
        [sys.executable, "-m", "agent_pipelines_tests.execution.killed_wait", url, boundary, str(file)], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    hub = Hub(database)
    with database.transaction() as connection:
        stored = hub.executions.of_key(connection, asked().idempotency_key)
        assert stored is not None
        hub.executions.close_lost(connection, stored.id, "its process was lost")  # as the reconciler does
        stored = hub.executions.get(connection, stored.id)
    assert stored is not None
    if boundary == "begun":  # nobody has its handle
        assert (stored.status, stored.error_class) == (Status.FAILED, ErrorClass.UNKNOWN_OUTCOME)
        return
    assert stored.status is Status.WAITING

    asyncio.run(poller(hub, file).run(until=lambda: bool(continuations(hub))))
    (tick,) = continuations(hub)
    run = RunRef(run_id="second", resumes=True, continues=tick.occurrence)
    done = hub.runner.execute(invocation_of(tick, TASK, "", None), TASK, agent(file), run=run)
    assert (done.status, done.text, done.attempts) == (Status.SUCCEEDED, "the result", 1)
    assert file.read_text() == "begun\n"  # the agent was asked to begin once
