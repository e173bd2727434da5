"""How much time a step has, so that what comes after it can still be in time."""

from collections.abc import Callable, Sequence

from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import After


def followers_of(task: TaskSpec, tasks: Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
    """All tasks that come after a task, directly or not, if one of them has to be finished within a time; else none."""
    found: dict[str, TaskSpec] = {}
    ahead = [task]
    while ahead:
        path = ahead.pop().path
        new = [each for each in tasks if each.path not in found and any(path == before for _, before in each.upstream())]
        found |= {each.path: each for each in new}
        ahead += new
    found.pop(task.path, None)
    has_promise = any(each.service_level.finish_within is not None for each in found.values())
    return tuple(found.values()) if has_promise else ()


def allowance(task: TaskSpec, followers: Sequence[TaskSpec], expected: Callable[[TaskSpec], float]) -> float | None:
    """Seconds from due to result that a task may take, None without limit.

    That is what its own service level says, or less: the time of each follower, less what that is expected to take. A follower
    that comes after an offset has its own time from then on.
    """
    limits: list[float] = [] if task.service_level.finish_within is None else [float(task.service_level.finish_within)]
    for each in followers:
        offsets = _offsets(task, each)
        if not offsets:
            continue
        its = allowance(each, followers, expected)
        if its is not None:
            limits.append(min(offsets) + its - expected(each))
    return min(limits, default=None)


def _offsets(task: TaskSpec, follower: TaskSpec) -> list[float]:
    """By how much later than a task one that follows it is due, for each reason why it follows."""
    direct = [0.0 for way, path in follower.upstream() if path == task.path and way[-1] != "task"]
    after = [each for each in follower.triggers if isinstance(each, After) and follower.resolve(each.task) == task.path]
    return [*direct, *(float(each.offset) for each in after)]
