"""The Dagster schedules of a task: one for each trigger of time that repeats."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import dagster as dg
from pydantic import JsonValue

from agent_pipelines.components.claim import claim, declared, refuse_reserved_names, request
from agent_pipelines.components.deployment import HubOf, hub_of, instance_of
from agent_pipelines.components.watch.sight import Due
from agent_pipelines.core.clock import Microseconds, isoformat, to_microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Cron, Interval, is_to_the_second, trigger_name
from agent_pipelines.engine.due import due_between, last_due, next_due
from agent_pipelines.engine.handover import ASKED_OF_DAGSTER
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.rhythm import EVERY_MINUTE, cron_lines
from agent_pipelines.engine.switches import switched_on_at
from agent_pipelines.engine.tick import Tick
from agent_pipelines.hub import Hub
from agent_pipelines.insight.triggers import limits, remarks
from agent_pipelines.store.database import Connection

_SECOND = 1_000_000
_PROMPT = 120 * _SECOND  # a look that comes later than this is late
_CLOCK_CHANGE = 3 * 3_600 * _SECOND  # more than any clock change moves
_MISSED = 10_000  # ticks that one look writes down as missed, the newest


def schedule_name(spec: TaskSpec, trigger: Cron | Interval) -> str:
    """The name of a trigger's schedule."""
    return f"{spec.application}__{spec.name}__{trigger_name(trigger)}"


def schedules_for(spec: TaskSpec, job_name: str, *, hub_of: HubOf = hub_of) -> list[dg.ScheduleDefinition]:
    """A schedule for each Cron and Interval trigger of a task; a new deployment starts with the enabled ones switched on.

    Dagster says when to look, `engine.due` what is due. Where Dagster cannot say it exactly, the schedule looks more often and
    skips with a reason; an interval that divides neither a day nor a week is looked at each minute, and starts up to a minute
    late. Several instants that passed while no scheduler ran: the last one runs late, the others are written down as missed.
    """
    refuse_reserved_names(spec)
    return [_schedule(spec, job_name, trigger, hub_of) for trigger in spec.triggers if isinstance(trigger, Cron | Interval)]


def _schedule(spec: TaskSpec, job_name: str, trigger: Cron | Interval, hub_of: HubOf) -> dg.ScheduleDefinition:
    name = schedule_name(spec, trigger)
    lines = cron_lines(trigger)

    def evaluate(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        at, instance = to_microseconds(context.scheduled_execution_time), instance_of(context)
        hub = hub_of(instance)
        # Somebody may try out in the UI what will happen at another time.
        is_tried_out = at > hub.clock.now() + _PROMPT
        reason = None if is_tried_out else _not_for_dagster(hub, spec, trigger)
        yield _Evaluation(hub, instance, spec, trigger, lines, at).answer() if reason is None else dg.SkipReason(reason)

    return dg.ScheduleDefinition(
        name=name,
        job_name=job_name,
        cron_schedule=lines[0] if len(lines) == 1 else lines,
        execution_timezone=trigger.timezone if isinstance(trigger, Cron) else "UTC",
        execution_fn=evaluate,
        default_status=dg.DefaultScheduleStatus.RUNNING if trigger.enabled else dg.DefaultScheduleStatus.STOPPED,
        description=_described(spec, trigger, lines),
        metadata={
            "task": spec.path,
            "workspace": spec.workspace,
            "trigger": trigger_name(trigger),
            **declared(spec, job_name, trigger).schedule_metadata(),
        },
    )


def _not_for_dagster(hub: Hub, spec: TaskSpec, trigger: Cron | Interval) -> str | None:
    """Why Dagster's own scheduler is not to start anything here; None if it is."""
    with hub.database.reading() as connection:
        if hub.daemons.keeps_time(connection):
            return "a daemon of agent-pipelines keeps the time of this schedule"
    if spec.lane == "burst":
        return "needs `agent-pipelines up`: this task shares its runs with others (lane: burst)"
    if _is_too_fast(trigger):
        return "needs `agent-pipelines up`: Dagster's own scheduler knows no seconds"
    return None


def _is_too_fast(trigger: Cron | Interval) -> bool:
    # An interval of minutes and some seconds can be looked at each minute: it starts late, and loses nothing.
    return trigger.every < 60 if isinstance(trigger, Interval) else is_to_the_second(trigger)


@dataclass(frozen=True)
class _Evaluation:
    """One look of Dagster at a schedule; the same for the same instant `at`, however often it is repeated."""

    hub: Hub
    instance: dg.DagsterInstance
    spec: TaskSpec
    trigger: Cron | Interval
    lines: Sequence[str]
    at: Microseconds

    def answer(self) -> dg.RunRequest | dg.SkipReason:
        now = self.hub.clock.now()
        due_at = last_due(self.trigger, self.at)
        if due_at is None:
            return dg.SkipReason(self._not_due())
        with self.hub.database.reading() as connection:
            known = self.hub.ticks.find(connection, self.spec.key, trigger_name(self.trigger), str(due_at))
            latest = self._latest(connection)
        if known is not None:
            return self._repeat(known)
        floor = self._looked_until(due_at, latest)
        if due_at != self.at and not self._is_found_late(due_at, floor):
            return dg.SkipReason(self._not_due())
        due = self._due(due_at)
        if self.at > now + _PROMPT:
            # Somebody tries out in the UI what will happen then.
            return dg.RunRequest(run_key=f"{trigger_name(self.trigger)}:{due_at}")
        if latest is not None and latest.trigger_revision != self._revision and now > self.at + _PROMPT:
            reason = "was due when no scheduler looked, and this trigger was edited since its last tick"
            due = replace(due, verdict=Verdict.MISSED, reason=reason)
        with self.hub.database.transaction() as connection:
            for missed in self._missed(floor, due_at):
                claim(self.hub, connection, self.spec.key, self.trigger, missed)
            claim(self.hub, connection, self.spec.key, self.trigger, due, inputs=ASKED_OF_DAGSTER)
            tick = self.hub.ticks.find(connection, self.spec.key, trigger_name(self.trigger), str(due_at))
        assert tick is not None
        return self._repeat(tick)

    def _repeat(self, tick: Tick) -> dg.RunRequest | dg.SkipReason:
        """The answer for a tick that is claimed, by this look or by one before it."""
        if tick.verdict is not None:
            reason = f": {tick.reason}" if tick.reason else ""
            decided = f"the tick of {isoformat(tick.due_at)} is decided: {tick.verdict}{reason}"
            return dg.SkipReason(decided if tick.due_at == self.at else f"{self._not_due()}; {decided}")
        if tick.inputs.get("looked_at", tick.due_at) != self.at:
            return dg.SkipReason(f"the run of the tick of {isoformat(tick.due_at)} is requested already")
        return request(tick)

    def _is_found_late(self, due_at: Microseconds, floor: Microseconds | None) -> bool:
        """Whether an instant before this look is to be made up for, because no look came at its time."""
        if floor is not None:
            return due_at > floor
        return self.at - due_at < (60 * _SECOND if tuple(self.lines) == EVERY_MINUTE else _CLOCK_CHANGE)

    def _looked_until(self, due_at: Microseconds, latest: Tick | None) -> Microseconds | None:
        """Until when everything that was due is accounted for or was never to run; None if nobody knows."""
        if latest is not None and latest.trigger_revision != self._revision:
            return None
        if latest is not None and due_at == self.at and next_due(self.trigger, latest.due_at) == due_at:
            return latest.due_at
        switched_on = switched_on_at(self.instance, schedule_name(self.spec, self.trigger), self.lines)
        if latest is not None:
            return max(latest.due_at, switched_on or 0)
        return None if tuple(self.lines) == EVERY_MINUTE else switched_on

    def _missed(self, floor: Microseconds | None, due_at: Microseconds) -> Iterable[Due]:
        if floor is None:
            return
        for instant in deque(due_between(self.trigger, floor, due_at - 1), maxlen=_MISSED):
            reason = f"no scheduler looked at its time; the next one that ran is due at {isoformat(due_at)}"
            yield replace(self._due(instant), verdict=Verdict.MISSED, reason=reason)

    def _due(self, due_at: Microseconds) -> Due:
        inputs: dict[str, JsonValue] = {} if due_at == self.at else {"looked_at": self.at}
        return Due(Origin.SCHEDULE, str(due_at), due_at, self.trigger.logical_at(due_at), inputs)

    def _latest(self, connection: Connection) -> Tick | None:
        workspace, application, task = self.spec.key
        name = trigger_name(self.trigger)
        found = self.hub.ticks.list(connection, workspace=workspace, application=application, task=task, trigger=name, limit=1)
        return found[0] if found else None

    @property
    def _revision(self) -> str:
        return revision_of(self.trigger)

    def _not_due(self) -> str:
        following = next_due(self.trigger, self.at)
        return f"not due at {isoformat(self.at)}" + ("" if following is None else f"; next at {isoformat(following)}")


def _described(spec: TaskSpec, trigger: Cron | Interval, lines: Sequence[str]) -> str:
    match trigger:
        case Cron():
            when = f"`{trigger.cron}` in {trigger.timezone}"
        case Interval():
            after = f", {trigger.offset:g} s after the full interval" if trigger.offset else ""
            when = f"every {trigger.every:g} s, counted from 1970-01-01T00:00:00Z{after}"
    parts = [f"Starts {spec.path}: {when}{limits(trigger)}."]
    if tuple(lines) == EVERY_MINUTE and not (isinstance(trigger, Cron) and trigger.cron == EVERY_MINUTE[0]):
        parts.append(
            "Dagster cannot say this as a cron expression, and shows `* * * * *`. `agent-pipelines up` keeps it to the second; "
            "Dagster's own scheduler " + ("starts nothing." if _is_too_fast(trigger) else "starts up to a minute late.")
        )
    elif isinstance(trigger, Cron) and tuple(lines) != (" ".join(trigger.fields[1:]),):
        parts.append(f"Dagster cannot read this expression: it looks at `{lines[0]}` and skips the days that are not meant.")
    if trigger.logical_time is not None:
        parts.append(f"A rehearsal: every tick works on {trigger.logical_time}.")
    parts.extend(remarks(spec, trigger))
    return "\n\n".join(parts)
