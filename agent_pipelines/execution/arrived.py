"""What an execution has waited for, as it is kept until the execution goes on."""

import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.governance.human_tasks import HumanTask
from agent_pipelines.ledger.waits import StoredWait
from agent_pipelines.runtimes.base import Finished, Runtime, StillRunning

APPROVE, EDIT, REJECT = "approve", "edit", "reject"
REVIEW = (APPROVE, EDIT, REJECT)
"""The answers to a question that has a draft."""

_GROWTH = 1.5  # each look without news makes the time to the next one longer by this
_SLOWEST = 60.0  # seconds between two looks at most, unless the runtime asks for more
_PATIENCE = 300.0  # seconds between two looks that fail, at most
_SPREAD = 0.2  # of the time between two looks, by which that varies


class Failed(BaseModel):
    """A failure, as it is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error_class: ErrorClass
    message: str
    status: int | None = None
    retry_after: float | None = None


class Arrived(BaseModel):
    """How an attempt went on while nobody held it: its events, and the failure that ended it if one did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[AgentEvent, ...] = ()
    failed: Failed | None = None

    @classmethod
    def of(cls, progress: Finished | RuntimeFailure) -> "Arrived":
        """What a poll has found at the end of the work."""
        if isinstance(progress, Finished):
            return cls(events=tuple(progress.events))
        failed = Failed(
            error_class=progress.error_class,
            message=progress.message,
            status=progress.status,
            retry_after=progress.retry_after,
        )
        return cls(failed=failed)

    @classmethod
    def too_late(cls, wait: StoredWait) -> "Arrived":
        """What is left of a wait at its deadline."""
        for_whom = "people to answer" if wait.kind == "human" else "the agent to finish"
        why = "" if wait.last_error is None else f"; the last look failed: {wait.last_error}"
        words = f"waited for {for_whom} until the limit of all attempts together{why}"
        return cls(failed=Failed(error_class=ErrorClass.TIMEOUT, message=words))

    @classmethod
    def of_answer(cls, task: HumanTask, draft: JsonValue) -> "Arrived":
        """What people have decided: the draft, what they made of it, a refusal, or the answer itself."""
        assert task.answer is not None
        if draft is None:
            return cls(events=(_final(task.answer if task.answer_data is None else task.answer_data, task.answer),))
        if task.answer == REJECT:
            comment = f": {task.comment}" if task.comment else ""
            return cls(failed=Failed(error_class=ErrorClass.REFUSED, message=f"rejected by {task.answered_by}{comment}"))
        return cls(events=(_final(task.answer_data if task.answer == EDIT else draft),))

    async def stream(self) -> AsyncGenerator[AgentEvent, None]:
        """The rest of the attempt, as the runtime would have streamed it."""
        for event in self.events:
            yield event
        if self.failed is not None:
            failed = self.failed
            raise RuntimeFailure(failed.error_class, failed.message, retry_after=failed.retry_after, status=failed.status)


def next_look(wait: StoredWait, now: Microseconds, *, retry_after: float | None = None, failed: bool = False) -> Microseconds:
    """When to look again: later and later, never before the runtime asks for it, and not after the deadline."""
    first = wait.poll_after_us / 1_000_000
    if failed:
        delay = min(max(first, 1.0) * 2**wait.failures, _PATIENCE)
    else:
        delay = min(max(first, 0.05) * _GROWTH ** min(wait.looks, 50), max(first, _SLOWEST))
    delay *= 1 + random.Random(f"{wait.id}:{wait.looks}:{wait.failures}").uniform(-_SPREAD, _SPREAD)
    return max(now, min(now + round(max(delay, retry_after or 0.0) * 1_000_000), wait.deadline_at))


async def wait_here(runtime: Runtime[Any], handle: str, poll_after: float, clock: Clock) -> Arrived:
    """Wait for work that was handed over in this process, for an execution that no other run can go on with."""
    delay = poll_after
    while True:
        await clock.sleep(delay)
        try:
            progress = (await runtime.poll([handle])).get(handle, StillRunning())
        except RuntimeFailure as failure:
            progress = StillRunning(failure.retry_after)
        if not isinstance(progress, StillRunning):
            return Arrived.of(progress)
        delay = max(min(delay * _GROWTH, max(poll_after, _SLOWEST)), progress.retry_after or 0.0)


def answers_to(options: Sequence[str], draft: JsonValue) -> Sequence[str]:
    """The answers that a question allows."""
    return options if draft is None else REVIEW


def _final(value: JsonValue, text: str | None = None) -> Final:
    if isinstance(value, str):
        return Final(text=value)
    return Final(text=text or "", output=value)
