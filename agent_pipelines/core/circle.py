"""Tasks that wait for one another."""

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from agent_pipelines.core.task import TaskKey

Name = TypeVar("Name", bound="str | TaskKey")


def circle(upstream: Mapping[Name, Collection[Name]]) -> list[Name] | None:
    """A circle among tasks, each before the one that it waits for and the first once more at the end; None if there is none."""
    try:
        TopologicalSorter(upstream).prepare()
    except CycleError as error:
        # graphlib lists each task before the one that waits for it.
        return list(error.args[1][::-1])
    return None
