"""Whether and when a failed attempt is followed by another."""

import random
from dataclasses import dataclass

from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.task import RetrySpec


@dataclass(frozen=True)
class Decision:
    """The decision as it is recorded; `delay` is in seconds, None if there is no further attempt."""

    delay: float | None
    reason: str


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
) -> Decision:
    """Decide about the attempt after number `attempt` of this run (from 1).

    `remaining` is what is left of the total time, in seconds. `repeatable` says that the runtime acts once on a
    repeated idempotency key, `cancels` that ending an attempt ended its work. The jitter is a function of `seed`.
    """
    repeatable = repeatable or policy.idempotent
    if error_class is ErrorClass.UNKNOWN_OUTCOME and not repeatable:
        return Decision(None, "not retried: the outcome is unknown and the request is not idempotent")
    if error_class is ErrorClass.TIMEOUT and not (repeatable or cancels):
        return Decision(None, "not retried: the work may go on there and the request is not idempotent")
    if error_class is not ErrorClass.UNKNOWN_OUTCOME and error_class not in policy.errors:
        return Decision(None, f"not retried: the policy of the task does not retry {error_class}")
    if attempt >= policy.max_attempts:
        return Decision(None, f"not retried: all {policy.max_attempts} attempts are used")
    delay = min(policy.delay * policy.factor ** (attempt - 1), policy.max_delay)
    delay *= 1 + policy.jitter * random.Random(f"{seed}:{attempt}").uniform(-1, 1)
    delay = max(delay, retry_after or 0.0)
    if delay >= remaining:
        return Decision(None, f"not retried: the next attempt would start in {delay:.1f} s, {remaining:.1f} s are left")
    return Decision(delay, f"retried after {delay:.2f} s")
