"""What becomes of the instants at which one trigger is due: a decision without side effects.

An instant is *late* if it lies further back than `PUNCTUAL` when it is first seen; what happens to late ones is said by
`catch_up`. An instant whose day the trigger's calendar leaves out is skipped, whenever it is seen. Each of the others begins,
unless the tick before it is at work: then `overlap` decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.trigger import TimeTrigger
from agent_pipelines.engine.due import begins_at, due_after, next_due, reason_not_to_run
from agent_pipelines.engine.tick import NewTick
from agent_pipelines.engine.triggers import Move, StoredTrigger

PUNCTUAL = 10_000_000
"""Microseconds within which an instant that is seen after it was due still counts as seen in time."""

INSTANTS = 5_000
"""Instants of one trigger that one look decides about; the rest is for the next look."""


@dataclass(frozen=True)
class AtWork:
    """A tick of the trigger that is not final: it waits for a run, has one, or its execution goes on."""

    tick_id: str
    due_at: Microseconds
    words: str
    run_id: str | None = None
    execution_id: str | None = None


@dataclass(frozen=True)
class Plan:
    """The ticks to claim and how far the trigger has been looked at; those in `replaced` make way."""

    move: Move
    ticks: list[NewTick] = field(default_factory=list[NewTick])
    replaced: list[AtWork] = field(default_factory=list[AtWork])


def plan(trigger: StoredTrigger, *, now: Microseconds, until: Microseconds, at_work: Sequence[AtWork] = ()) -> Plan:
    """Decide about everything due after the trigger was last looked at and not after `until`.

    `at_work` are the ticks of this trigger that are not final, in the order in which they are due.
    """
    definition = trigger.definition
    if not isinstance(definition, TimeTrigger):
        return Plan(Move(trigger, max(trigger.looked_until, until), None))
    instants: list[Microseconds] = []
    is_all = True
    for instant in islice(due_after(trigger.definition, trigger.looked_until), INSTANTS + 1):
        if instant > until:
            break
        if len(instants) == INSTANTS:
            is_all = False
            break
        instants.append(instant)
    looked_until = max(trigger.looked_until, until) if is_all else instants[-1]
    found = Plan(Move(trigger, looked_until, next_due(trigger.definition, looked_until)))
    line = list(at_work)
    verdicts = _verdicts(trigger, definition, instants, now, is_all=is_all)
    for instant in instants:
        verdict, reason = verdicts[instant]
        waits_for: str | None = None
        if verdict is None and line:
            verdict, reason, waits_for = _overlap(definition, line, found, is_ahead=instant > now)
        tick = _tick(trigger, definition, instant, now, verdict, reason, waits_for)
        found.ticks.append(tick)
        if verdict is None:
            line.append(AtWork(tick.id, instant, f"the tick of {isoformat(instant)}, which is about to begin"))
    return found


def _verdicts(
    trigger: StoredTrigger, definition: TimeTrigger, instants: Sequence[Microseconds], now: Microseconds, *, is_all: bool
) -> dict[Microseconds, tuple[Verdict | None, str | None]]:
    """The verdict of each instant that does not run, by calendar and catch-up."""
    found: dict[Microseconds, tuple[Verdict | None, str | None]] = {}
    late: list[Microseconds] = []
    punctual = False
    for instant in instants:
        reason = reason_not_to_run(trigger.definition, instant)
        if reason is not None:
            found[instant] = Verdict.SKIPPED, reason
        elif instant < now - PUNCTUAL:
            late.append(instant)
        else:
            found[instant] = None, None
            punctual = True
    runs = _caught_up(definition, late, now, newer=punctual or not is_all)
    seen = f"not seen until {isoformat(now)}, looked at last at {isoformat(trigger.looked_until)}"
    policy = f"catch_up: {definition.catch_up}" + (
        "" if definition.catch_up_within is None else f" within {definition.catch_up_within:g} s"
    )
    for instant in late:
        found[instant] = (None, None) if instant in runs else (Verdict.MISSED, f"{seen}; {policy}")
    return found


def _caught_up(definition: TimeTrigger, late: Sequence[Microseconds], now: Microseconds, *, newer: bool) -> set[Microseconds]:
    within = definition.catch_up_within
    young = [instant for instant in late if within is None or instant >= now - round(within * 1_000_000)]
    match definition.catch_up:
        case "none":
            return set()
        case "latest":
            return set() if newer else set(young[-1:])
        case "all":
            return set(young)


def _overlap(
    definition: TimeTrigger, line: Sequence[AtWork], found: Plan, *, is_ahead: bool
) -> tuple[Verdict | None, str | None, str | None]:
    last, queued = line[-1], len(line) - 1
    match definition.overlap:
        case "parallel":
            return None, None, None
        case "skip" if is_ahead:
            # What is at work now may be final when this one is due: the timekeeper decides then.
            return None, None, last.tick_id
        case "skip":
            return Verdict.SKIPPED, f"overlap: {last.words}", None
        case "queue" if queued >= definition.queue_limit:
            return Verdict.SKIPPED, f"overlap: {queued} ticks are queued already, the limit; {last.words}", None
        case "queue":
            return None, None, last.tick_id
        case "replace":
            found.replaced.extend(each for each in line if each not in found.replaced)
            return None, None, last.tick_id


def _tick(
    trigger: StoredTrigger,
    definition: TimeTrigger,
    instant: Microseconds,
    now: Microseconds,
    verdict: Verdict | None,
    reason: str | None,
    waits_for: str | None,
) -> NewTick:
    inputs: dict[str, JsonValue] = {"catch_up": definition.catch_up, "overlap": definition.overlap}
    if verdict is None and instant < now - PUNCTUAL:
        inputs["caught_up_at"] = now
    return NewTick(
        task=trigger.task_key,
        trigger=trigger.trigger,
        revision=trigger.revision,
        due_at=instant,
        logical_at=definition.logical_at(instant),
        begins_at=begins_at(trigger.definition, trigger.path, instant),
        lane=trigger.lane,
        priority=trigger.priority,
        spec_hash=trigger.spec_hash,
        inputs=inputs,
        verdict=verdict,
        reason=reason,
        waits_for=waits_for,
    )
