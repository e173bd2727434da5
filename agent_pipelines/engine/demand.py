"""Launching a task because somebody asks for it."""

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from pydantic import JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import AgentPipelinesError, DefinitionError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

TRIGGER = str(Origin.ON_DEMAND)
"""Name of the trigger that every task has without declaring it."""


class Demand:
    """Asks for one execution of a task: a tick with a reserved run, then the run."""

    def __init__(self, database: Database, ticks: Ticks, clock: Clock) -> None:
        self._database = database
        self._ticks = ticks
        self._clock = clock

    def launch(
        self,
        gateway: DagsterGateway,
        task: TaskKey,
        job_name: str,
        *,
        actor: str,
        logical_at: Microseconds | None = None,
        variables: Mapping[str, JsonValue] | None = None,
        along: Callable[[sa.Connection, str], object] | None = None,
    ) -> str:
        """Put a run of a task into Dagster's queue; returns its id.

        `along` takes part in the transaction that claims the tick, for a record of who asked. Variables stand in the run's
        tags, so one that holds a secret is refused with DefinitionError. Raises what the gateway raises; the tick then says
        that the launch failed.
        """
        for name, value in (variables or {}).items():
            if redactor.value(value) != value:
                fix = "Run tags are read by many; name the environment variable that holds it in the agent's settings"
                raise DefinitionError("holds a secret", field=f"variables.{name}", fix=fix)
        run_id, now = new_id(), self._clock.now()
        logical_at = now if logical_at is None else logical_at
        launch = Launch(
            task=f"{task[1]}/{task[2]}",
            trigger=TRIGGER,
            origin=Origin.ON_DEMAND,
            occurrence=run_id,
            due_at=now,
            logical_at=logical_at,
            actor=actor,
            variables=dict(variables or {}),
        )
        with self._database.transaction() as connection:
            self._ticks.claim(
                connection,
                task,
                TRIGGER,
                run_id,
                origin=Origin.ON_DEMAND,
                due_at=now,
                logical_at=logical_at,
                actor=actor,
                inputs={"variables": launch.variables},
                run_id=run_id,
            )
            if along is not None:
                along(connection, run_id)
        try:
            return gateway.launch(job_name, launch, run_id=run_id)
        except AgentPipelinesError as error:
            reason = redactor.text(str(error))
            with self._database.transaction() as connection:
                self._ticks.decide(connection, task, TRIGGER, run_id, Verdict.LAUNCH_FAILED, reason=reason)
            raise
