"""Watching the ticks of another task."""

from dataclasses import replace

from agent_pipelines.components.watch.cursor import TriggerCursor
from agent_pipelines.components.watch.sight import Due, Look, Repair, Repaired, Sight, Waiting, marked, task_at
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.trigger import After, trigger_name
from agent_pipelines.engine.after import Decision, Step, decide, repair_has_begun
from agent_pipelines.engine.burst_settings import burst_job_name
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.tick import REPAIR, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Connection

# A tick becomes visible when its transaction is over; by then later ones may have been seen.
_OVERLAP = 120 * 1_000_000
_PAGE = 500


def watch_after(look: Look, trigger: After, cursor: TriggerCursor) -> Sight:
    """Due with each tick of the other task that is due since the trigger was first watched, once `decide` says so."""
    upstream = task_at(trigger.task, look.task)
    path = f"{upstream[1]}/{upstream[2]}"
    due: list[Due] = []
    repairs: list[Repair] = []
    repaired: list[Repaired] = []
    waiting: list[Waiting] = []
    open_seqs: list[int] = []
    with look.hub.database.reading() as connection:
        last_seq = look.hub.ticks.last_seq(connection)
        ticks = look.hub.ticks.unfollowed(
            connection,
            upstream,
            look.task,
            trigger_name(trigger),
            due_from=cursor.first,
            after=cursor.marks.get("after", 0),
            limit=_PAGE,
        )
        for tick in ticks:
            execution, repair = _outcome(look.hub, connection, tick)
            if execution is not None and repair is not None and repair.verdict is None and repair_has_begun(repair, execution):
                repaired.append(Repaired(repair, execution.run_id, execution.id))
            decision = decide(trigger, tick, execution, repair, look.now)
            open_seqs.append(tick.seq)
            match decision.step:
                case Step.WAIT:
                    words = f"{path} of {isoformat(tick.due_at)}: {decision.reason}"
                    # The execution of a repaired launch is not named by the tick, so nothing tells that it has begun.
                    until = look.now if tick.verdict is Verdict.LAUNCH_FAILED else decision.until
                    waiting.append(Waiting(words, until, _watched(tick, execution, repair)))
                case Step.REPAIR:
                    repairs.append(_repair(path, tick, execution))
                    waiting.append(Waiting(f"{path} of {isoformat(tick.due_at)}: {decision.reason}", look.now))
                case Step.RUN | Step.SKIP if len(due) < look.limit:
                    due.append(_due(path, tick, execution, _unless_done(look, connection, execution, decision)))
                case _:
                    pass
    more = len(ticks) == _PAGE or len(due) == look.limit
    return Sight(_moved(cursor, look.now, last_seq, open_seqs), due, repairs, repaired, waiting, more)


def _watched(tick: Tick, execution: StoredExecution | None, repair: Tick | None) -> frozenset[str]:
    """What is to be kept an eye on while a follower waits; nothing if the upstream has ended for good."""
    if tick.verdict in (Verdict.SKIPPED, Verdict.MISSED):
        return frozenset()
    if execution is not None and execution.status in (Status.SUCCEEDED, Status.SKIPPED):
        return frozenset()
    return frozenset(each.id for each in (tick, execution, repair) if each is not None)


def _unless_done(look: Look, connection: Connection, execution: StoredExecution | None, decision: Decision) -> Decision:
    """The decision, unless the follower has run together with its upstream, as when somebody materializes both.

    Nobody asked for what shares a burst to be done together: there an earlier tick of the follower may have run.
    """
    if decision.step is not Step.RUN or execution is None or execution.job == burst_job_name(execution.workspace):
        return decision
    if look.hub.executions.of_run(connection, execution.run_id, look.task) is None:
        return decision
    return replace(decision, step=Step.SKIP, reason=f"ran together with its upstream, in run {execution.run_id}")


def _outcome(hub: Hub, connection: Connection, tick: Tick) -> tuple[StoredExecution | None, Tick | None]:
    """The execution that a tick led to, and the tick of its repair."""
    if tick.verdict is Verdict.LAUNCH_FAILED:
        repair = hub.ticks.find(connection, tick.task_key, REPAIR, tick.id)
        return (None if repair is None else _admitted_by_repair(hub, connection, tick, repair)), repair
    execution = None if tick.execution_id is None else hub.executions.get(connection, tick.execution_id)
    if execution is None:
        return None, None
    return execution, hub.ticks.find(connection, tick.task_key, REPAIR, execution.id)


def _admitted_by_repair(hub: Hub, connection: Connection, tick: Tick, repair: Tick) -> StoredExecution | None:
    since_then = hub.executions.list(
        connection,
        workspace=tick.workspace,
        application=tick.application,
        task=tick.task,
        created_from=repair.claimed_at,
        limit=1_000,
    )
    return next((each for each in since_then if (each.trigger, each.occurrence) == (tick.trigger, tick.occurrence)), None)


def _due(path: str, tick: Tick, execution: StoredExecution | None, decision: Decision) -> Due:
    skipped = decision.step is Step.SKIP
    return Due(
        Origin.AFTER,
        tick.id,
        decision.due_at,
        decision.logical_at,
        {
            "upstream": path,
            "upstream_tick": tick.id,
            "upstream_execution": None if execution is None else execution.id,
            "because": decision.reason,
        },
        verdict=Verdict.SKIPPED if skipped else None,
        reason=decision.reason if skipped else None,
    )


def _repair(path: str, tick: Tick, execution: StoredExecution | None) -> Repair:
    # The invocation is that of the execution: a deduplicated tick follows the execution of another one.
    asked = tick if execution is None else execution
    launch = Launch(
        task=path,
        trigger=asked.trigger,
        origin=asked.origin,
        occurrence=asked.occurrence,
        due_at=asked.due_at,
        logical_at=asked.logical_at,
        actor=asked.actor,
        event_id=asked.occurrence if asked.origin is Origin.EVENT else None,
        resume=True,
    )
    inputs = {"launch": launch.model_dump(mode="json"), "resumptions": None if execution is None else execution.resumptions}
    return Repair(tick, tick.id if execution is None else execution.id, launch, dict(inputs))


def _moved(cursor: TriggerCursor, now: int, last_seq: int, open_seqs: list[int]) -> TriggerCursor:
    """The cursor moved behind everything that can no longer become visible, but not past what is still open."""
    marks = dict(cursor.marks) or {"after": 0, "seen": last_seq, "seen_at": now}
    if marks["seen_at"] + _OVERLAP <= now:
        marks["after"] = max(marks["after"], min([marks["seen"], *(seq - 1 for seq in open_seqs)]))
        marks["seen"], marks["seen_at"] = last_seq, now
    return marked(cursor, **marks)
