"""What bursts that were killed have not told Dagster."""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from agent_pipelines.components.burst_report import events_of, write
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.engine.launch import tag
from agent_pipelines.engine.materializations import Materializations, Occurrence, RunOfEvents
from agent_pipelines.execution.burst import Ended
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredExecution

_REPORTED = tag("reported")
_BURSTS = 20  # the newest ones that are looked at
_TAIL = 30_000_000  # microseconds before its last beat from which a killed burst may have left something unwritten
_EVENTS = 10_000


@dataclass(frozen=True)
class LostReports:
    """Writes the events that a burst had not written when it was killed. At least once: an event may then be there twice."""

    hub: Hub
    instance: dg.DagsterInstance
    workspace: str

    def write(self, *, but: str) -> int:
        """Write what the latest bursts left unwritten, except for one that is at work; returns how many events."""
        with self.hub.database.reading() as connection:
            latest = self.hub.bursts.latest(connection, self.workspace, limit=_BURSTS)
        beats = {burst.run_id: burst.beat_at for burst in latest if burst.run_id != but and burst.beat_at is not None}
        if not beats:
            return 0
        ended_badly = dg.RunsFilter(run_ids=list(beats), statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
        runs = [run for run in self.instance.get_runs(ended_badly) if _REPORTED not in run.tags]
        return sum(self._write(run, beats[run.run_id]) for run in runs)

    def _write(self, run: dg.DagsterRun, beat_at: Microseconds) -> int:
        told = {
            str(value.value)
            for record in self.instance.get_records_for_run(
                run.run_id,
                of_type={dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION},
                limit=_EVENTS,
                ascending=False,
            ).records
            if (value := _metadata(record.event_log_entry).get("execution_id")) is not None
        }
        with self.hub.database.reading() as connection:
            ended = self.hub.executions.ended_in(connection, run.run_id, finished_from=beat_at - _TAIL)
        occurrences: list[Occurrence] = []
        step = ""
        for execution in ended:
            step = execution.step or step
            if execution.id not in told:
                occurrences += self._occurrences(execution)
        write(Materializations(self.instance, RunOfEvents(run.run_id, run.job_name, step)), self.workspace, occurrences)
        self.instance.add_run_tags(run.run_id, {_REPORTED: "true"})
        return len(occurrences)

    def _occurrences(self, execution: StoredExecution) -> list[Occurrence]:
        with self.hub.database.reading() as connection:
            tick = self.hub.ticks.find(connection, execution.task_key, execution.trigger, execution.occurrence)
            spec = self.hub.ledger.specs.get(connection, execution.spec_hash)
        if tick is None:
            return []
        at = execution.finished_at or self.hub.clock.now()
        return [(at, event) for event in events_of(Ended(tick, spec, execution.result()), self.workspace)]


def _metadata(entry: dg.EventLogEntry) -> Mapping[str, dg.MetadataValue]:
    told = entry.asset_materialization or entry.asset_observation
    return {} if told is None else told.metadata
