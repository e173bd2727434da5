"""The Dagster sensors of a task, and the one that cleans up after crashes."""

from collections.abc import Callable, Sequence
from typing import assert_never

import dagster as dg

from agent_pipelines.components.claim import claim, declared, refuse_reserved_names, request
from agent_pipelines.components.deployment import hub_of, instance_of
from agent_pipelines.components.watch.after import watch_after
from agent_pipelines.components.watch.asset_update import watch_asset
from agent_pipelines.components.watch.at import watch_at
from agent_pipelines.components.watch.cursor import SensorCursor, TriggerCursor
from agent_pipelines.components.watch.event import watch_event
from agent_pipelines.components.watch.sight import Look, Sight
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import After, AssetUpdate, At, Event, trigger_name
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import Launch, tag
from agent_pipelines.engine.reconciler import Reconciler
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.sensor import SensorOfJobs
from agent_pipelines.engine.ticks import REPAIR, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Connection

Watched = Event | At | AssetUpdate | After
"""The triggers that a sensor looks at; the others are schedules."""

RECONCILER = "agent_pipelines__reconciler"

_CLAIMS = 100  # ticks that one evaluation may claim
_OPEN = 500  # ticks that may wait for their runs; until some have begun, events stay in the inbox

HubOf = Callable[[dg.DagsterInstance], Hub]


def sensor_name(spec: TaskSpec) -> str:
    """The name of a task's sensor."""
    return f"{spec.application}__{spec.name}__triggers"


def sensors_for(spec: TaskSpec, job_name: str, *, hub_of: HubOf = hub_of) -> list[dg.SensorDefinition]:
    """The sensor of a task that has triggers other than schedules; none otherwise.

    A new deployment starts with it switched on if one of these triggers is enabled. Triggers that are not enabled are then not
    watched; if none is, switching the sensor on watches them all.
    """
    refuse_reserved_names(spec)
    watched = [trigger for trigger in spec.triggers if isinstance(trigger, Watched)]
    if not watched:
        return []
    enabled = [trigger for trigger in watched if trigger.enabled]
    upstreams = [spec.resolve(trigger.task) for trigger in watched if isinstance(trigger, After) and trigger.repair]

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return _evaluate(context, hub_of(instance_of(context)), spec, job_name, enabled or watched)

    sensor = SensorOfJobs(
        sensor_name(spec),
        job_names=list(dict.fromkeys([job_name, *(_job_of(path) for path in upstreams)])),
        evaluation_fn=evaluate,
        # Dagster looks every five seconds at the sensors whose interval has passed: with five, each second look would be early.
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING if enabled else dg.DefaultSensorStatus.STOPPED,
        description="\n\n".join([f"Starts {spec.path}.", *(_described(spec, trigger) for trigger in watched)]),
        metadata={
            "task": spec.path,
            "workspace": spec.workspace,
            **declared(spec, job_name, *(enabled or watched)).sensor_metadata(),
        },
    )
    return [sensor]


def reconciler_sensor(*, hub_of: HubOf = hub_of) -> dg.SensorDefinition:
    """The sensor that closes what a crash has left open, every 30 s. It starts no runs."""

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        instance = instance_of(context)
        hub = hub_of(instance)
        done = Reconciler(hub.database, hub.ticks, hub.executions, DagsterGateway(instance), hub.clock).reconcile()
        for line in done:
            context.log.warning(line)
        return dg.SkipReason("; ".join(done) or "nothing was left open")

    return dg.SensorDefinition(
        name=RECONCILER,
        evaluation_fn=evaluate,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Closes ticks whose run never came, and executions whose run has ended or is gone.",
    )


def _evaluate(
    context: dg.SensorEvaluationContext, hub: Hub, spec: TaskSpec, job_name: str, triggers: Sequence[Watched]
) -> dg.SensorResult:
    now = hub.clock.now()
    cursor = _switched_on(SensorCursor.read(context.cursor), context.last_sensor_start_time, now)
    with hub.database.reading() as connection:
        still_open = _open(hub, connection, spec, triggers)
    waiting = len(still_open)
    limit = min(_CLAIMS, _OPEN - waiting)
    sights: list[tuple[Watched, Sight]] = []
    for trigger in triggers:
        known = cursor.triggers.get(trigger_name(trigger))
        if known is None or known.revision != revision_of(trigger):
            known = TriggerCursor(revision=revision_of(trigger), first=now)
        look = Look(hub, instance_of(context), spec, now, max(limit, 0))
        sight = _watch(look, trigger, known) if limit > 0 else Sight(known, waiting=[f"{waiting} ticks wait for their runs"])
        limit -= len(sight.due)
        sights.append((trigger, sight))
    if any(sight.due or sight.repairs or sight.repaired for _, sight in sights):
        with hub.database.transaction() as connection:
            for trigger, sight in sights:
                _write(hub, connection, spec, trigger, sight)
            still_open = _open(hub, connection, spec, triggers)
    # Those that an earlier evaluation has requested are in Dagster's hands. The others were claimed just now, or by an
    # evaluation that came to nothing; should Dagster know them after all, it knows them by their run key.
    requests = [_request(tick, job_name) for tick in still_open if tick.id not in cursor.requested]
    following = cursor.model_copy(
        update={
            "triggers": {trigger_name(trigger): sight.cursor for trigger, sight in sights},
            "requested": tuple(tick.id for tick in still_open),
        }
    ).write()
    notes = [f"{trigger_name(trigger)}: {note}" for trigger, sight in sights for note in sight.waiting]
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=following)
    return dg.SensorResult(skip_reason="; ".join(notes[:20]) or "nothing is due", cursor=following)


def _switched_on(cursor: SensorCursor, started: float | None, now: int) -> SensorCursor:
    """The cursor as it is valid now: what happened while the sensor was switched off is not caught up."""
    if started is None:
        return cursor
    switched_on = round(started * 1_000_000)
    if cursor.switched_on is None or cursor.switched_on == switched_on:
        return cursor.model_copy(update={"switched_on": switched_on})
    first = min(switched_on, now)
    again = {
        name: TriggerCursor(revision=known.revision, first=max(known.first, first)) for name, known in cursor.triggers.items()
    }
    return cursor.model_copy(update={"switched_on": switched_on, "triggers": again})


def _watch(look: Look, trigger: Watched, cursor: TriggerCursor) -> Sight:
    match trigger:
        case Event():
            return watch_event(look, trigger, cursor)
        case At():
            return watch_at(look, trigger, cursor)
        case AssetUpdate():
            return watch_asset(look, trigger, cursor)
        case After():
            return watch_after(look, trigger, cursor)
        case _:
            assert_never(trigger)


def _write(hub: Hub, connection: Connection, spec: TaskSpec, trigger: Watched, sight: Sight) -> None:
    for due in sight.due:
        claim(hub, connection, spec, trigger, due)
    for repair in sight.repairs:
        hub.ticks.claim(
            connection,
            repair.task,
            REPAIR,
            repair.occurrence,
            origin=Origin.AFTER,
            due_at=hub.clock.now(),
            logical_at=repair.launch.logical_at,
            inputs={**repair.inputs, "requested_by": _asker(spec, trigger)},
        )
    for repaired in sight.repaired:
        tick = repaired.tick
        hub.ticks.decide(
            connection,
            tick.task_key,
            tick.trigger,
            tick.occurrence,
            Verdict.RAN,
            run_id=repaired.run_id,
            execution_id=repaired.execution_id,
        )


def _open(hub: Hub, connection: Connection, spec: TaskSpec, triggers: Sequence[Watched]) -> Sequence[Tick]:
    """Ticks without a verdict that this sensor has to answer for, repairs of upstreams among them."""
    names = {trigger_name(trigger) for trigger in triggers}
    own = [tick for tick in hub.ticks.open(connection, task=spec.key, limit=2 * _OPEN) if tick.trigger in names]
    askers = {_asker(spec, trigger): spec.resolve(trigger.task) for trigger in triggers if isinstance(trigger, After)}
    for path in sorted(set(askers.values())):
        application, _, task = path.partition("/")
        for tick in hub.ticks.open(connection, task=(spec.workspace, application, task), limit=2 * _OPEN):
            if tick.trigger == REPAIR and tick.inputs.get("requested_by") in askers:
                own.append(tick)
    return own


def _request(tick: Tick, job_name: str) -> dg.RunRequest:
    if tick.trigger != REPAIR:
        return request(tick, job_name=job_name)
    launch = Launch.model_validate(tick.inputs["launch"])
    return dg.RunRequest(
        run_key=f"{REPAIR}:{tick.occurrence}",
        job_name=_job_of(launch.task),
        tags={**launch.tags(), tag(REPAIR): tick.occurrence},
    )


def _asker(spec: TaskSpec, trigger: Watched) -> str:
    return f"{spec.path}:{trigger_name(trigger)}"


def _job_of(path: str) -> str:
    return path.replace("/", "__")


def _described(spec: TaskSpec, trigger: Watched) -> str:
    match trigger:
        case Event():
            only = f" with {trigger.match}" if trigger.match else ""
            what = f"for each event `{trigger.event}`{only}"
        case At():
            what = f"once, at {isoformat(trigger.due_at)}"
        case AssetUpdate():
            what = f"for each materialization of `{trigger.asset}`"
        case After():
            then = "is repaired once" if trigger.repair else "is not repaired"
            what = (
                f"with each tick of `{spec.resolve(trigger.task)}`, {trigger.offset:g} s after it was due and when it is done; "
                f"a failed one {then}, then: {trigger.if_upstream_fails}"
            )
    return f"`{trigger_name(trigger)}`: {what}{'' if trigger.enabled else ' (not enabled)'}"
