"""Asking for the run that goes on with an execution that has waited."""

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.launch import Launch, launch_of
from agent_pipelines.engine.tick import CONTINUATION
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.arrived import Arrived
from agent_pipelines.governance.human_tasks import HumanTasks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.ledger.waits import StoredWait
from agent_pipelines.store.database import Connection

_LOOK_AFTER = 30_000_000  # microseconds after which it is seen to that a run that was asked for has come
_LEASE = 30.0  # seconds
_LAUNCH_AGAIN = 60_000_000  # microseconds before another run is asked for after one could not be launched, doubled each time,
_LONGEST_PAUSE = 3_600_000_000  # but no longer than this
_REQUESTS = 60  # after which it is given up, about two days later


@dataclass(frozen=True)
class Continuations:
    """Claims the ticks of continuations: each request once, and another one if the run of the one before is lost.

    Also decides what waits for people, which needs no agent.
    """

    clock: Clock
    ledger: Ledger
    ticks: Ticks
    human_tasks: HumanTasks

    def look(self, connection: Connection) -> int:
        """Do for all waits what can be done without asking an agent; returns how many were looked at."""
        taken = self.ledger.executions.waits.take(connection, agents=(), lease=_LEASE)
        for wait in taken:
            self.decide(connection, wait)
        return len(taken)

    def decide(self, connection: Connection, wait: StoredWait) -> None:
        """Go on with what has arrived, or what people have answered or not answered in time; `wait` was taken."""
        waits = self.ledger.executions.waits
        if wait.state == "arrived":
            self.request(connection, wait)
        elif wait.state == "waiting" and wait.kind == "human":
            assert wait.human_task_id is not None
            task = self.human_tasks.get(connection, wait.human_task_id)
            if task is not None and not task.is_open:
                self.arrive(connection, wait, Arrived.of_answer(task, wait.draft))
            elif self.clock.now() >= wait.deadline_at:
                self.arrive(connection, wait, Arrived.too_late(wait))
            else:
                waits.put_back(connection, wait, wait.deadline_at)
        elif wait.state == "waiting":  # nobody who knows its agent has ended it at its deadline
            self.arrive(connection, wait, Arrived.too_late(wait), cancel="failed")
        else:
            waits.put_back(connection, wait, None)

    def arrive(
        self, connection: Connection, wait: StoredWait, arrived: Arrived, *, cancel: Literal["done", "failed"] | None = None
    ) -> None:
        """Keep what has come of a wait, and have a run go on with it; `wait` was taken."""
        if self.ledger.executions.waits.arrive(connection, wait, arrived.model_dump(mode="json"), cancel=cancel):
            kept = self.ledger.executions.waits.get(connection, wait.id)
            assert kept is not None
            self.request(connection, kept)

    def request(self, connection: Connection, wait: StoredWait) -> None:
        """See to it that a run goes on with a wait whose outcome has arrived; `wait` was taken."""
        waits = self.ledger.executions.waits
        execution = self.ledger.executions.get(connection, wait.execution_id)
        now = self.clock.now()
        if execution is None or execution.status is not Status.WAITING:
            # Its run has it in hand. If that dies, the reconciler makes the execution wait again.
            waits.put_back(connection, wait, None)
            return
        number = wait.continuations
        if number > 0:
            tick = self.ticks.find(connection, execution.task_key, CONTINUATION, _occurrence(wait, number))
            if tick is not None and tick.verdict is None:
                waits.put_back(connection, wait, now + _LOOK_AFTER)
                return
            if tick is not None and tick.execution_id is None:  # it could not be launched
                again = (tick.decided_at or now) + min(_LAUNCH_AGAIN << min(number - 1, 10), _LONGEST_PAUSE)
                if number >= _REQUESTS:
                    message = f"no run could be had to go on with it, in {number} requests; the last one: {tick.reason}"
                    self.ledger.executions.give_up(connection, execution.id, message)
                    return
                if now < again:
                    waits.put_back(connection, wait, again)
                    return
        self._claim(connection, execution, _occurrence(wait, number + 1), now)
        waits.continued(connection, wait, number=number + 1, next_look_at=now + _LOOK_AFTER)

    def _claim(self, connection: Connection, execution: StoredExecution, occurrence: str, now: Microseconds) -> None:
        first = self.ticks.find(connection, execution.task_key, execution.trigger, execution.occurrence)
        fresh = Launch(
            task=execution.path,
            trigger=execution.trigger,
            origin=execution.origin,
            occurrence=execution.occurrence,
            due_at=execution.due_at,
            logical_at=execution.logical_at,
            actor=execution.actor,
        )
        launch = (fresh if first is None else launch_of(first)[1]).model_copy(update={"resume": True})
        inputs: dict[str, JsonValue] = {
            "launch": launch.model_dump(mode="json", exclude_defaults=True),
            "execution": execution.id,
            "variables": {},
        }
        self.ticks.claim(
            connection,
            execution.task_key,
            CONTINUATION,
            occurrence,
            origin=Origin.AFTER,
            due_at=now,
            logical_at=execution.logical_at,
            inputs=inputs,
            lane="run" if first is None else first.lane,
            priority=0 if first is None else first.priority,
            spec_hash=None if first is None else first.spec_hash,
        )


def _occurrence(wait: StoredWait, number: int) -> str:
    return f"{wait.id}:{number}"
