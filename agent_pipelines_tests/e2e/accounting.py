"""Watching a deployment while it is disturbed, and closing its books afterwards."""

import logging
import time
from collections.abc import Sequence

from agent_pipelines.core.execution import Verdict
from agent_pipelines.engine.daemons import StoredDaemon
from agent_pipelines_tests.e2e.faulty import SECOND, Deployment

STORY = "story"
"""Name of the logger that stories are told to."""

_log = logging.getLogger(STORY)


class Story:
    """What happened, with the seconds since it began: a test that fails shows it, and all do with `--log-cli-level info`."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, words: str) -> None:
        _log.info("%7.1f s  %s", time.monotonic() - self._began, words)


def assert_accounted_for(deployment: Deployment, since: int, until: int) -> None:
    """The books of a stretch of time close, and no agent was asked twice for the same instant."""
    books = deployment.hub.witness.books(since, until)
    assert books.closes, books.problems
    total = books.total
    assert total.due > 0
    assert (total.gaps, total.open, total.doubles) == (0, 0, 0)
    assert total.due == sum(total.verdicts.values())
    twice = [call for call, times in deployment.project.calls().items() if times > 1]
    assert twice == []


def watched(deployment: Deployment, name: str) -> Sequence[str]:
    names = [f"{name}_{number}" for number in range(5)]
    deployment.register(names, {"kind": "interval", "every": "2s"})
    return names


def close(deployment: Deployment, names: Sequence[str], since: int) -> None:
    """End what was watched, and check the books of the time in between."""
    deployment.remove(names)
    until = deployment.hub.clock.now()
    deployment.wait_until(lambda: deployment.is_decided(since, until))
    deployment.wait_until(lambda: not unfinished_executions(deployment))
    assert_accounted_for(deployment, since, until)
    deployment.kill()


def alive(deployment: Deployment, pid: int) -> list[StoredDaemon]:
    with deployment.hub.database.reading() as connection:
        return [each for each in deployment.hub.daemons.alive(connection) if each.pid == pid]


def claimed(deployment: Deployment, after: int) -> bool:
    now = deployment.hub.clock.now()
    return any(tick.claimed_at > after for tick in deployment.ticks(after, now + 2 * SECOND))


def ran(deployment: Deployment, names: Sequence[str], after: int) -> bool:
    """Whether each of some tasks has run for an instant that was due later."""
    ticks = deployment.ticks(after, deployment.hub.clock.now() + SECOND)
    return set(names) <= {tick.task for tick in ticks if tick.verdict is Verdict.RAN and tick.due_at > after}


def unfinished_executions(deployment: Deployment) -> int:
    with deployment.hub.database.reading() as connection:
        return len(deployment.hub.executions.unfinished(connection))
