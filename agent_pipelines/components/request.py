"""The invocation that a Dagster run asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg
from pydantic import JsonValue

from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import Launch, tag
from agent_pipelines.engine.tick import CONTINUATION
from agent_pipelines.execution.asked import payload, variables_of
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredExecution

# Tags that Dagster sets on runs.
_RESUMED = "dagster/is_resume_retry"
_ASSETS_RESUMED = "dagster/is_asset_resume_retry"
_RETRIED = "dagster/retry_number"
_BACKFILL = "dagster/backfill"
_USER = "user"


@dataclass(frozen=True)
class Request:
    """What one task is asked to do by one Dagster run.

    A run that resumes another (re-execution from failure, automatic retry) asks for the invocation of that other one.
    Every other re-execution asks for a new one, on demand and on the same inputs: Dagster copies the tags of the parent, so
    they say what the parent was launched for.

    `item` names the part of the work where one run works on a task more than once; `variables` go over all others.
    """

    hub: Hub
    instance: dg.DagsterInstance
    run: dg.DagsterRun
    spec: TaskSpec
    step: str
    item: str | None = None
    partition: str | None = None
    variables: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def read(self) -> tuple[Invocation, RunRef]:
        """Read the request. Raises ExecutionFailed (context) if a variable of the trigger cannot be rendered."""
        launch = self._launch(self.run)
        resumes = self._resumed(self.run) is not None
        reference = RunRef(
            run_id=self.run.run_id,
            job=self.run.job_name,
            step=self.step,
            partition=self.partition,
            parent_run_id=self.run.parent_run_id,
            continues=self._continues,
            resumes=resumes or (launch is not None and launch.resume and self.run.parent_run_id is None),
        )
        run = self.run
        while (resumed := self._resumed(run)) is not None:
            stored = self._execution_of(resumed)
            if stored is not None and stored.item == self.item:
                # The run in between may have died before it took the execution over.
                return self._again(stored), reference.model_copy(update={"parent_run_id": stored.run_id})
            parent = self.instance.get_run_by_id(resumed)
            if parent is None:
                break
            run = parent
        return self._asked_by(run), reference

    @property
    def _continues(self) -> str | None:
        return None if self.run.parent_run_id is not None else self.run.tags.get(tag(CONTINUATION))

    def _resumed(self, run: dg.DagsterRun) -> str | None:
        """The id of the run that a run resumes, None if it asks for something new."""
        if run.parent_run_id is None:
            return None
        if run.tags.get(_RESUMED) == "true" or _RETRIED in run.tags:
            return run.parent_run_id
        if run.tags.get(_ASSETS_RESUMED) == "true":
            # Unlike the other two this tag is copied when all of a resuming run is executed again; what such a run has
            # finished is then asked for anew.
            stored = self._execution_of(run.parent_run_id)
            return None if stored is not None and stored.status is Status.SUCCEEDED else run.parent_run_id
        return None

    def _execution_of(self, run_id: str) -> StoredExecution | None:
        with self.hub.database.reading() as connection:
            return self.hub.executions.of_run(connection, run_id, self.spec.key)

    def _again(self, stored: StoredExecution) -> Invocation:
        asked = stored.invocation
        return Invocation(
            workspace=asked.workspace,
            application=asked.application,
            task=asked.task,
            spec_hash=self.spec.spec_hash,
            trigger=asked.trigger,
            origin=asked.origin,
            occurrence=asked.occurrence,
            due_at=asked.due_at,
            logical_at=asked.logical_at,
            item=asked.item,
            variables=asked.variables,
            event=asked.event,
            actor=asked.actor,
        )

    def _asked_by(self, run: dg.DagsterRun) -> Invocation:
        launch = self._launch(run)
        event = self._event(launch)
        now = self.hub.clock.now()
        origin = Origin.BACKFILL if _BACKFILL in run.tags else Origin.ON_DEMAND
        on_demand = Invocation(
            workspace=self.spec.workspace,
            application=self.spec.application,
            task=self.spec.name,
            spec_hash=self.spec.spec_hash,
            trigger=str(origin),
            origin=origin,
            occurrence=run.run_id,
            due_at=now,
            logical_at=now if launch is None else launch.logical_at,
            item=self.item,
            variables={**self._launched_variables(launch, event), **self.variables},
            event=event,
            actor=run.tags.get(_USER, "dagster"),
        )
        if launch is None or run.parent_run_id is not None:
            return on_demand
        return on_demand.model_copy(
            update={
                "trigger": launch.trigger,
                "origin": launch.origin,
                "occurrence": launch.occurrence,
                "due_at": launch.due_at,
                "actor": launch.actor,
            }
        )

    def _launch(self, run: dg.DagsterRun) -> Launch | None:
        launch = Launch.from_tags(run.tags)
        return launch if launch is not None and launch.task == self.spec.path else None

    def _event(self, launch: Launch | None) -> dict[str, JsonValue] | None:
        if launch is None or launch.event_id is None or self._continues is not None:
            return None
        with self.hub.database.reading() as connection:
            return payload(launch.event_id, self.hub.inbox.get(connection, launch.event_id))

    def _launched_variables(self, launch: Launch | None, event: Mapping[str, JsonValue] | None) -> dict[str, JsonValue]:
        if launch is None:
            return {}
        if self._continues is not None:  # what goes on has its variables
            return launch.variables
        instants = {"due_at": launch.due_at, "logical_at": launch.logical_at}
        return variables_of(self.spec, launch.trigger, launch.variables, event=event, **instants)
