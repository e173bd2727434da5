from typing import Any

from agent_pipelines.core.critical_path import allowance, followers_of
from agent_pipelines.core.task import TaskSpec


def task(name: str, **changes: Any) -> TaskSpec:
    return TaskSpec.model_validate({"name": name, "intent": "x", "agent": "a", **changes})


TAKES = {"source": 30.0, "clean": 120.0, "join": 60.0, "sink": 180.0}
SOURCE = task("source")
CLEAN = task("clean", dependencies=["source"])
JOIN = task("join", dependencies=["source"])
SINK = task("sink", dependencies=["clean", "join"], service_level={"finish_within": "10m"})
ALL = [SOURCE, CLEAN, JOIN, SINK]


def _allowance(spec: TaskSpec, tasks: list[TaskSpec]) -> float | None:
    return allowance(spec, followers_of(spec, tasks), lambda each: TAKES[each.name])


def test_each_step_before_has_less_time_by_what_follows_on_the_longest_way() -> None:
    assert {each.name: _allowance(each, ALL) for each in ALL} == {"source": 300, "clean": 420, "join": 420, "sink": 600}


def test_without_a_promise_there_is_no_deadline() -> None:
    assert followers_of(SOURCE, [SOURCE, CLEAN]) == ()
    assert _allowance(SOURCE, [SOURCE, CLEAN]) is None


def test_a_step_keeps_a_smaller_time_of_its_own() -> None:
    own = task("source", service_level={"finish_within": "1m"})
    assert _allowance(own, [own, CLEAN, JOIN, SINK]) == 60


def test_what_comes_later_on_purpose_leaves_more_time() -> None:
    trigger = {"kind": "after", "task": "source", "offset": "15m"}
    sink = task("sink", triggers=[trigger], service_level={"finish_within": "10m"})
    assert _allowance(SOURCE, [SOURCE, sink]) == 900 + 600 - 180
