"""What a task that comes after another does about one tick of that other: a decision without side effects.

The follower's tick is due at the upstream tick's due instant plus the offset, and eligible when the execution of that
same tick is final. A rehearsed upstream tick (its logical time is not its due instant) is followed as soon as its execution
is final, and the offset is added to the logical time. A failed upstream is repaired at once, by one run that resumes the same
invocation; what has been decided for good is written down when the follower is due, so that somebody may still help
until then. Whoever waits for an upstream that is not final gives up `wait_at_most` after the follower was due, or after
the upstream was claimed, if that was later.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.core.trigger import After
from agent_pipelines.engine.tick import Tick


class Followed(Protocol):
    """What the decision needs to know of the upstream's execution."""

    @property
    def status(self) -> Status: ...
    @property
    def resumptions(self) -> int: ...
    @property
    def finished_at(self) -> Microseconds | None: ...
    @property
    def error_message(self) -> str | None: ...
    @property
    def error_class(self) -> ErrorClass | None: ...


class Step(StrEnum):
    """What to do now."""

    WAIT = "wait"
    REPAIR = "repair"  # request a run that resumes the upstream's invocation
    RUN = "run"
    SKIP = "skip"


@dataclass(frozen=True)
class Decision:
    """A step and why; `due_at` and `logical_at` are those of the follower's tick, in microseconds.

    One that waits is to be decided again at `until`, if nothing happens before.
    """

    step: Step
    reason: str
    due_at: Microseconds
    logical_at: Microseconds
    until: Microseconds


def decide(trigger: After, upstream: Tick, execution: Followed | None, repair: Tick | None, now: Microseconds) -> Decision:
    """Decide what the follower does about a tick of its upstream.

    `execution` is the one that the tick led to (for a tick whose launch failed: the one of its repair), `repair` the tick that
    was claimed to repair it, if one was.
    """
    offset = round(trigger.offset * 1_000_000)
    rehearsed = upstream.logical_at != upstream.due_at
    if rehearsed:
        due_at = now if execution is None or execution.finished_at is None else execution.finished_at
        logical_at = upstream.logical_at + offset
        gives_up_at = max(upstream.due_at, upstream.claimed_at) + round(trigger.wait_at_most * 1_000_000)
    else:
        due_at = upstream.due_at + offset
        logical_at = due_at
        gives_up_at = max(due_at, upstream.claimed_at) + round(trigger.wait_at_most * 1_000_000)
    if trigger.logical_time is not None:
        logical_at = trigger.logical_at(due_at)

    def so(step: Step, reason: str) -> Decision:
        until = gives_up_at + 1 if rehearsed or now >= due_at else due_at
        return Decision(step, reason, due_at, logical_at, until)

    step, reason = _standing(trigger, upstream, execution, repair)
    if step in (Step.WAIT, Step.REPAIR) and now > gives_up_at:
        return so(Step.SKIP, f"upstream not final by {isoformat(gives_up_at)}: {reason}")
    if step in (Step.RUN, Step.SKIP) and not rehearsed and now < due_at:
        return so(Step.WAIT, f"due at {isoformat(due_at)}")
    return so(step, reason)


def repair_has_begun(repair: Tick, execution: Followed | None) -> bool:
    """Whether the upstream's execution has been taken up again since its repair was claimed."""
    return execution is not None and execution.resumptions != repair.inputs.get("resumptions")


def _standing(trigger: After, upstream: Tick, execution: Followed | None, repair: Tick | None) -> tuple[Step, str]:
    match upstream.verdict:
        case None:
            return Step.WAIT, "upstream has not begun"
        case Verdict.SKIPPED:
            return Step.SKIP, f"upstream skipped: {upstream.reason}"
        case Verdict.MISSED:
            return Step.SKIP, f"upstream missed: {upstream.reason}"
        case Verdict.LAUNCH_FAILED if execution is None:
            return _failed(trigger, f"launch failed: {upstream.reason}", execution, repair)
        case Verdict.LAUNCH_FAILED | Verdict.RAN | Verdict.DEDUPLICATED:
            pass
    if execution is None:
        return Step.SKIP, f"upstream's execution {upstream.execution_id} is not in the record any more"
    match execution.status:
        case Status.SUCCEEDED:
            return Step.RUN, "upstream succeeded"
        case Status.SKIPPED:
            return Step.SKIP, "upstream skipped: there was nothing to do"
        case Status.RUNNING | Status.WAITING:
            return Step.WAIT, f"upstream is {execution.status}"
        case Status.FAILED | Status.CANCELLED:
            return _failed(trigger, execution.error_message or str(execution.status), execution, repair)


def _failed(trigger: After, why: str, execution: Followed | None, repair: Tick | None) -> tuple[Step, str]:
    if execution is not None and execution.error_class == ErrorClass.UNKNOWN_OUTCOME:
        # The agent may have acted: asking it again is for a person to decide.
        why = f"{why}; its outcome is unknown, so it is not repeated by itself"
    elif trigger.repair and repair is None:
        return Step.REPAIR, f"upstream failed: {why}"
    if repair is not None and repair.verdict is None and not repair_has_begun(repair, execution):
        return Step.WAIT, "upstream is about to be repaired"
    if trigger.if_upstream_fails == "run":
        return Step.RUN, f"upstream failed, which is no reason not to run: {why}"
    return Step.SKIP, f"upstream failed: {why}"
