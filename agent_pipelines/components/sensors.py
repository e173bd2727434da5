"""The Dagster sensors of a task, and the one that cleans up after crashes."""

from collections.abc import Mapping, Sequence
from typing import assert_never

import dagster as dg

from agent_pipelines.components.batch.watch import BatchWatch
from agent_pipelines.components.claim import claim, claim_repair, declared, note_repaired, refuse_reserved_names, request
from agent_pipelines.components.deployment import HubOf, hub_of, instance_of
from agent_pipelines.components.watch.after import watch_after
from agent_pipelines.components.watch.asset_update import watch_asset
from agent_pipelines.components.watch.at import watch_at
from agent_pipelines.components.watch.cursor import SensorCursor, TriggerCursor, sensor_name
from agent_pipelines.components.watch.event import watch_event
from agent_pipelines.components.watch.sight import Look, Sight, Waiting
from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import After, AssetUpdate, At, Event, trigger_name
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.handover import ASKED_OF_DAGSTER
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.reconciler import Reconciler
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.sensor import SensorOfJobs
from agent_pipelines.engine.tick import REPAIR, Tick
from agent_pipelines.engine.triggers import StoredTrigger
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Connection

Watched = Event | At | AssetUpdate | After
"""The triggers that a sensor looks at; the others are schedules."""

RECONCILER = "agent_pipelines__reconciler"

_CLAIMS = 100  # ticks that one evaluation may claim
_OPEN = 500  # ticks that may wait for their runs; until some have begun, events stay in the inbox

_NOTES = 20  # parts of a skip reason


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
        sensor_name(spec.key),
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
        # First: what it knows of a batch says more than that its execution was lost.
        done = BatchWatch(hub, instance).keep()
        done += Reconciler(
            hub.database, hub.ticks, hub.daemons, hub.executions, DagsterGateway(instance), hub.clock, hub.continuations
        ).reconcile()
        for line in done:
            context.log.warning(line)
        return dg.SkipReason("; ".join(done) or "nothing was left open")

    return dg.SensorDefinition(
        name=RECONCILER,
        evaluation_fn=evaluate,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Closes ticks whose run never came, executions whose run has ended or is gone, and lost shards of batches.",
    )


def _evaluate(
    context: dg.SensorEvaluationContext, hub: Hub, spec: TaskSpec, job_name: str, triggers: Sequence[Watched]
) -> dg.SensorResult:
    now = hub.clock.now()
    cursor, started = SensorCursor.read(context.cursor), context.last_sensor_start_time
    with hub.database.reading() as connection:
        is_kept = hub.daemons.keeps_time(connection)
        rows = hub.triggers.list(connection, task=spec.key, on_only=True)
        still_open = _open(hub, connection, spec, triggers)
    # Where the daemon has looked, and this sensor has not looked since.
    of_daemon = {row.trigger: TriggerCursor.of(row) for row in rows if _is_same(row, triggers)}
    if is_kept:
        taken_over = {row.trigger for row in rows if row.marks} & set(of_daemon)
        following = cursor.switched(started, now).without(taken_over).write()
        look = Look(hub, instance_of(context), spec.key, now, limit=1)
        return dg.SensorResult(skip_reason=_kept(look, triggers, of_daemon, len(still_open)), cursor=following)
    cursor = cursor.resumed(of_daemon).switched(started, now)
    waiting = len(still_open)
    limit = min(_CLAIMS, _OPEN - waiting)
    sights: list[tuple[Watched, Sight]] = []
    for trigger in triggers:
        known = cursor.triggers.get(trigger_name(trigger))
        if known is None or known.revision != revision_of(trigger):
            known = TriggerCursor(revision=revision_of(trigger), first=now)
        look = Look(hub, instance_of(context), spec.key, now, max(limit, 0))
        sight = _watch(look, trigger, known) if limit > 0 else _too_many(known, waiting, now)
        limit -= len(sight.due)
        sights.append((trigger, sight))
    if any(sight.due or sight.repairs or sight.repaired for _, sight in sights):
        with hub.database.transaction() as connection:
            for trigger, sight in sights:
                _write(hub, connection, spec, trigger, sight)
            still_open = _open(hub, connection, spec, triggers)
    # Those that an earlier evaluation has requested are in Dagster's hands. The others were claimed just now, or by an
    # evaluation that came to nothing, or by a daemon that did not get to launch them; should Dagster know them after all, it
    # knows them by their run key.
    instance = instance_of(context)
    unasked = [tick for tick in still_open if tick.id not in cursor.requested and not _is_launched(instance, tick)]
    requests = [request(tick, job_name=job_name if tick.task_key == spec.key else launch_of(tick)[0]) for tick in unasked]
    following = cursor.model_copy(
        update={
            "triggers": {trigger_name(trigger): sight.cursor for trigger, sight in sights},
            "requested": tuple(tick.id for tick in still_open),
        }
    ).write()
    notes = [f"{trigger_name(trigger)}: {note.words}" for trigger, sight in sights for note in sight.waiting]
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=following)
    return dg.SensorResult(skip_reason="; ".join(notes[:_NOTES]) or "nothing is due", cursor=following)


def _is_same(row: StoredTrigger, triggers: Sequence[Watched]) -> bool:
    return any(row.trigger == trigger_name(trigger) and row.revision == revision_of(trigger) for trigger in triggers)


def _is_launched(instance: dg.DagsterInstance, tick: Tick) -> bool:
    return tick.run_id is not None and instance.has_run(tick.run_id)


def _too_many(cursor: TriggerCursor, waiting: int, now: Microseconds) -> Sight:
    return Sight(cursor, waiting=[Waiting(f"{waiting} ticks wait for their runs", now)])


def _kept(look: Look, triggers: Sequence[Watched], positions: Mapping[str, TriggerCursor], waiting: int) -> str:
    """Why a sensor does nothing: another one looks. What it sees besides is told, not claimed."""
    words = [f"watched each second by the agent-pipelines daemon: {', '.join(map(trigger_name, triggers))}"]
    if waiting:
        words.append(f"{waiting} ticks wait for their runs")
    for trigger in triggers:
        if isinstance(trigger, At | After):
            fresh = TriggerCursor(revision=revision_of(trigger), first=look.now)
            sight = _watch(look, trigger, positions.get(trigger_name(trigger), fresh))
            words += [f"{trigger_name(trigger)}: {note.words}" for note in sight.waiting]
    return "; ".join(words[:_NOTES])


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
        claim(hub, connection, spec.key, trigger, due, inputs=ASKED_OF_DAGSTER)
    for repair in sight.repairs:
        claim_repair(hub, connection, repair, inputs={"requested_by": _asker(spec, trigger), **ASKED_OF_DAGSTER})
    for repaired in sight.repaired:
        note_repaired(hub, connection, repaired)


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
