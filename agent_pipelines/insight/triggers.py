"""Triggers in words: when they are due, and what is worth knowing about them."""

from collections.abc import Iterator

from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import After, AssetUpdate, At, Cron, Event, Interval, TimeTrigger, Trigger


def describe(trigger: Trigger) -> str:
    """A trigger in a few words."""
    match trigger:
        case Cron():
            seconds = "" if trigger.seconds is None else f" (seconds {trigger.seconds})"
            zone = "" if trigger.timezone == "UTC" else f" {trigger.timezone}"
            return f"cron {trigger.cron}{seconds}{zone}{limits(trigger)}"
        case Interval():
            return f"every {_length(trigger.every)}{limits(trigger)}"
        case At():
            return f"at {trigger.at}{limits(trigger)}"
        case Event():
            return f"event {trigger.event}"
        case AssetUpdate():
            return f"asset {trigger.asset}"
        case After():
            return f"after {trigger.task}" + (f" + {_length(trigger.offset)}" if trigger.offset else "")


def remarks(spec: TaskSpec, trigger: Trigger) -> list[str]:
    """What may surprise whoever reads that this trigger starts this task, though nothing is wrong."""
    return list(_on_period(spec, trigger)) if isinstance(trigger, Cron | Interval) else []


def _on_period(spec: TaskSpec, trigger: Cron | Interval) -> Iterator[str]:
    period = trigger.every if isinstance(trigger, Interval) else trigger.times.shortest_gap
    due = f"Due every {_length(period)}" if isinstance(trigger, Interval) else f"Due as often as every {_length(period)}"
    if period < spec.timeout.attempt:
        yield f"{due}, but an attempt may take up to {_length(spec.timeout.attempt)}: {_at_work(trigger)}."
    if period < (delay := trigger.spread + trigger.jitter):
        yield f"{due}, but a tick begins up to {_length(delay)} later: others are due before it begins."


def _at_work(trigger: TimeTrigger) -> str:
    """What becomes of a tick that is due while the one before it is at work."""
    match trigger.overlap:
        case "skip":
            return "with `overlap: skip` ticks are skipped while one is at work"
        case "queue":
            return f"with `overlap: queue` up to {trigger.queue_limit} ticks wait while one is at work, the others are skipped"
        case "parallel":
            return "with `overlap: parallel` several are at work at once"
        case "replace":
            return "with `overlap: replace` one that is at work is cancelled by the next"


def limits(trigger: TimeTrigger) -> str:
    """First and last instant and the days that are meant, as they are said after when a trigger is due."""
    starts = "" if trigger.starts_at is None else f" from {trigger.starts_at}"
    ends = "" if trigger.ends_at is None else f" until {trigger.ends_at}"
    return f"{starts}{ends}" + ("" if trigger.calendar is None else f" on {trigger.calendar.words}")


def _length(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
