"""Closing what a crash has left open."""

from collections.abc import Sequence
from typing import Protocol

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.task import TaskKey
from agent_pipelines.engine.daemons import Daemons
from agent_pipelines.engine.tick import AGAIN, Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

PATIENCE = 600.0
"""Seconds that a claimed tick may be without a run before its launch counts as failed."""

GRACE = 60.0
"""Seconds that an execution is left alone after its admission."""


class RunOfTick(Protocol):
    """A Dagster run, as far as the reconciler asks about it."""

    @property
    def run_id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def is_over(self) -> bool: ...


class Runs(Protocol):
    """What the reconciler asks of Dagster; the gateway answers it."""

    def runs_of_tick(self, tick: Tick) -> Sequence[RunOfTick]: ...

    def run(self, run_id: str) -> RunOfTick | None: ...


class Admitted(Protocol):
    """An execution, as far as the reconciler asks about it."""

    @property
    def id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def path(self) -> str: ...


class AdmittedExecutions(Protocol):
    """What the reconciler asks of the record of executions."""

    def running(self, connection: sa.Connection, *, created_before: Microseconds, limit: int = 500) -> Sequence[Admitted]: ...

    def of_run(self, connection: sa.Connection, run_id: str, task: TaskKey) -> Admitted | None: ...

    def close_lost(self, connection: sa.Connection, execution_id: str, message: str, *, run_id: str | None = None) -> bool: ...


class Continuing(Protocol):
    """Who asks for the runs that go on with what waits."""

    def look(self, connection: sa.Connection) -> int: ...


class Reconciler:
    """Compares the record with Dagster's runs, and closes what nobody will close any more.

    - A tick whose run was requested but never came, or ended before it admitted an execution: `launch_failed`.
      Ticks of bursts wait for as long as it takes; those of a burst that is gone are given back by who keeps the bursts. So do
      ticks that are queued behind others, and all that wait for their runs while a daemon of ours is there to launch them.
    - An execution that is still running in the record while its run has ended or is gone: failed, unless it may go on by
      itself; then a run is asked for that does.

    It may run anywhere and several at a time: each closing is one transaction that looks again.
    """

    def __init__(
        self,
        database: Database,
        ticks: Ticks,
        daemons: Daemons,
        executions: AdmittedExecutions,
        runs: Runs,
        clock: Clock,
        continuing: Continuing,
        *,
        patience: float = PATIENCE,
        grace: float = GRACE,
    ) -> None:
        self._database = database
        self._ticks = ticks
        self._daemons = daemons
        self._executions = executions
        self._runs = runs
        self._clock = clock
        self._continuing = continuing
        self._patience = patience
        self._grace = grace

    def reconcile(self) -> list[str]:
        """Close what can be closed; returns what was done, a line each."""
        done = [*self._close_ticks(), *self._close_executions()]
        with self._database.transaction() as connection:
            self._continuing.look(connection)
        return done

    def _close_ticks(self) -> list[str]:
        with self._database.reading() as connection:
            open_ticks = self._ticks.open(connection, claimed_before=self._ago(self._grace), lane="run")
            is_kept = self._daemons.keeps_time(connection)
        return [line for tick in open_ticks if tick.waits_for is None for line in self._close_tick(tick, is_kept=is_kept)]

    def _close_tick(self, tick: Tick, *, is_kept: bool) -> list[str]:
        runs = self._runs.runs_of_tick(tick)
        if any(not run.is_over for run in runs):
            return []
        if not runs and (is_kept or max(tick.claimed_at, tick.begins_at) >= self._ago(self._patience)):
            return []
        reason = f"no run came within {self._patience:g} s"
        if runs:
            reason = f"run {runs[0].run_id} ended ({runs[0].status}) before it admitted an execution"
        with self._database.transaction() as connection:
            # The run of such a tick resumes an execution, and says nothing to the tick that asked for it.
            for run in runs if tick.trigger in AGAIN else ():
                admitted = self._executions.of_run(connection, run.run_id, tick.task_key)
                if admitted is not None:
                    self._decide(connection, tick, Verdict.RAN, run_id=run.run_id, execution_id=admitted.id)
                    return []
            if not self._decide(connection, tick, Verdict.LAUNCH_FAILED, reason=reason):
                return []
        return [f"tick {tick.trigger}:{tick.occurrence} of {tick.application}/{tick.task}: {reason}"]

    def _decide(self, connection: sa.Connection, tick: Tick, verdict: Verdict, **values: str) -> bool:
        return self._ticks.decide(connection, tick.task_key, tick.trigger, tick.occurrence, verdict, **values)

    def _close_executions(self) -> list[str]:
        with self._database.reading() as connection:
            running = self._executions.running(connection, created_before=self._ago(self._grace))
        return [line for execution in running for line in self._close_execution(execution)]

    def _close_execution(self, execution: Admitted) -> list[str]:
        run = self._runs.run(execution.run_id)
        if run is not None and not run.is_over:
            return []
        what = "is gone" if run is None else f"ended ({run.status})"
        message = f"run {execution.run_id} {what} while this execution was running: its process was lost"
        with self._database.transaction() as connection:
            closed = self._executions.close_lost(connection, execution.id, message, run_id=execution.run_id)
        return [f"execution {execution.id} of {execution.path}: {message}"] if closed else []

    def _ago(self, seconds: float) -> Microseconds:
        return self._clock.now() - round(seconds * 1_000_000)
