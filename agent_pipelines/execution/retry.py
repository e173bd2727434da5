"""Whether and when a failed attempt is followed by another."""

import random
from dataclasses import dataclass

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.task import RetrySpec
from agent_pipelines.execution.work import Failure, Work


@dataclass(frozen=True)
class Decision:
    """The decision as it is recorded; `delay` is in seconds, None if there is no further attempt.

    `may_move` says that another agent may be asked: nothing that could be doubled may be at work.
    """

    delay: float | None
    reason: str
    may_move: bool = True


def may_be_at_work(policy: RetrySpec, error_class: ErrorClass, *, cancels: bool) -> bool:
    """Whether what the agent was asked for may be done yet, so that doing it elsewhere could double it.

    What this runtime does once for a key, another one does again.
    """
    if policy.idempotent:
        return False
    return error_class is ErrorClass.UNKNOWN_OUTCOME or (error_class is ErrorClass.TIMEOUT and not cancels)


def decide_for(work: Work, failure: Failure, now: Microseconds) -> Decision:
    """Decide about the attempt of a work that has just failed."""
    if failure.may_repeat:
        return Decision(0.0, f"repeated: {failure.message}")
    capabilities = work.place.agent.capabilities
    return decide(
        work.spec.retry,
        failure.error_class,
        attempt=work.tries - work.tries_before,
        inner=work.inner_tries + failure.tries - 1,
        remaining=work.remaining(now),
        retry_after=failure.retry_after,
        repeatable=capabilities.honours_idempotency_key,
        cancels=capabilities.cancels,
        seed=work.stored.id,
    )


def decide(
    policy: RetrySpec,
    error_class: ErrorClass,
    *,
    attempt: int,
    remaining: float,
    retry_after: float | None,
    repeatable: bool,
    cancels: bool,
    seed: str,
    inner: int = 0,
) -> Decision:
    """Decide about the attempt after number `attempt` with this agent in this run (from 1).

    `remaining` is what is left of the total time, in seconds. `inner` are the tries beyond these attempts that the runtime has
    made by itself; they count. `repeatable` says that the runtime acts once on a
    repeated idempotency key, `cancels` that ending an attempt ended its work. The jitter is a function of `seed`.
    """
    may_move = not may_be_at_work(policy, error_class, cancels=cancels)
    policy = policy.of(error_class)
    repeatable = repeatable or policy.idempotent

    def no(reason: str) -> Decision:
        return Decision(None, f"not retried: {reason}", may_move)

    if error_class is ErrorClass.UNKNOWN_OUTCOME and not repeatable:
        return no("the outcome is unknown and the request is not idempotent")
    if error_class is ErrorClass.TIMEOUT and not (repeatable or cancels):
        return no("the work may go on there and the request is not idempotent")
    if error_class is not ErrorClass.UNKNOWN_OUTCOME and error_class not in policy.errors:
        return no(f"the policy of the task does not retry {error_class}")
    if attempt + inner >= policy.max_attempts:
        counted = f", {inner} of them by the runtime itself" if inner else ""
        return no(f"all {policy.max_attempts} attempts are used{counted}")
    delay = min(policy.delay * policy.factor ** (attempt - 1), policy.max_delay)
    delay *= 1 + policy.jitter * random.Random(f"{seed}:{attempt}").uniform(-1, 1)
    delay = max(delay, retry_after or 0.0)
    if delay >= remaining:
        return no(f"the next attempt would start in {delay:.1f} s, {remaining:.1f} s are left")
    return Decision(delay, f"retried after {delay:.2f} s")
