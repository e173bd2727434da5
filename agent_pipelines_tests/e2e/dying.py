"""Boundaries at which a process kills or suspends itself, once, when a file names one of them."""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from agent_pipelines.engine.burst_settings import BURST
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launcher import WatchedRunLauncher
from agent_pipelines.engine.run_lane import RunLane
from agent_pipelines.engine.timekeeper import Look, Timekeeper
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.engine.warm import WarmRunLauncher
from agent_pipelines.execution.admit import Admitter
from agent_pipelines.execution.intake import Intake
from agent_pipelines.execution.settle import Settler

OF_RUNS = {
    "claim": "the ticks are written, and the transaction is not committed",
    "look": "the look has committed",
    "take": "the tick has its run id, nothing is launched",
    "create": "Dagster has the run, nobody has asked for it",
    "submit": "the run is in the queue",
    "dequeue": "the run is out of the queue, and has no process",
    "start": "the run has its process",
}
"""What has happened when the daemon dies on the way of a tick that gets a run of its own."""

OF_BURSTS = {
    "burst noted": "the burst is noted, Dagster knows nothing",
    "burst created": "Dagster has the run, nobody has started it",
    "burst starting": "the run is STARTING, and has no process",
    "burst started": "the run has its process",
}
"""The same on the way of a burst."""

IN_BURSTS = {
    "taken": "the burst has taken ticks",
    "admitted": "an execution is admitted, its agent is not asked",
    "answered": "the agent has answered, which is not in the record",
    "settled": "an execution is over, Dagster is not told",
}
"""What has happened when a burst dies."""


class Boundaries:
    """Has this process send itself a signal when it reaches the boundary that the file names; whoever removes the file does."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def install(self) -> None:
        """Replace the methods around the boundaries."""
        _around(Triggers, "advance", before=self._at("claim", lambda self, connection, moves: True))
        _around(Timekeeper, "look", after=self._at("look", _has_claimed_for_runs))
        _around(RunLane, "_launch", before=self._at("take"))
        _around(DagsterInstance, "submit_run", before=self._at("create"), after=self._at("submit"))
        for launcher in (WatchedRunLauncher, WarmRunLauncher):
            _around(launcher, "launch_run", before=self._at("dequeue", _of_task), after=self._at("start", _of_task))
        _around(DagsterGateway, "start", before=self._at("burst noted"))
        _around(DagsterInstance, "launch_run", before=self._at("burst created", _run_of_burst))
        _around(WatchedRunLauncher, "launch_run", before=self._at("burst starting", _of_burst))
        _around(WatchedRunLauncher, "launch_run", after=self._at("burst started", _of_burst))
        _around_async(Intake, "take", after=self._at("taken", lambda self, taken, *rest: bool(taken[0])))
        _around_async(Admitter, "admit", after=self._at("admitted"))
        _around_async(Settler, "succeed", before=self._at("answered"), after=self._at("settled"))

    def _at(self, boundary: str, is_reached: Callable[..., bool] = lambda *given: True) -> Callable[..., None]:
        def end(*given: Any) -> None:
            if is_reached(*given):
                self._reach(boundary)

        return end

    def _reach(self, boundary: str) -> None:
        try:
            number, _, named = self._file.read_text().partition(" ")
            if named != boundary:
                return
            self._file.unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.Signals(int(number)))


def _nothing(*given: Any) -> None:
    return


def _around(owner: type, name: str, *, before: Callable[..., None] = _nothing, after: Callable[..., None] = _nothing) -> None:
    method = getattr(owner, name)

    @wraps(method)
    def replaced(self: Any, *given: Any, **named: Any) -> Any:
        before(self, *given)
        result = method(self, *given, **named)
        after(self, result, *given)
        return result

    setattr(owner, name, replaced)


def _around_async(
    owner: type, name: str, *, before: Callable[..., None] = _nothing, after: Callable[..., None] = _nothing
) -> None:
    method = getattr(owner, name)

    @wraps(method)
    async def replaced(self: Any, *given: Any, **named: Any) -> Any:
        before(self, *given)
        result = await method(self, *given, **named)
        after(self, result, *given)
        return result

    setattr(owner, name, replaced)


def _has_claimed_for_runs(timekeeper: Timekeeper, look: Look) -> bool:
    return any(tick.lane == "run" for tick in look.claimed)


def _of_task(launcher: object, *given: Any) -> bool:
    return not _of_burst(launcher, *given)


def _of_burst(launcher: object, *given: Any) -> bool:
    return BURST in given[-1].dagster_run.tags


def _run_of_burst(instance: DagsterInstance, run_id: str, *given: Any) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and BURST in run.tags
