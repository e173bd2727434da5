"""What Dagster shows of fallbacks, degraded results, used results and deadlines."""

from typing import Any

import dagster as dg
import pytest

from agent_pipelines.components.agent import Agent
from agent_pipelines.core.critical_path import followers_of
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.execution import Status
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.components.running import definitions_of, executions, fake, hub_of, run, task

BROKEN: dict[str, Any] = {"replies": ["never"], "fail_times": 99, "error_class": "overloaded"}
ONCE = {"max_attempts": 1}


def _shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [materialization] = result.asset_materializations_for_node("default__digest__execute")
    return {name: value.value for name, value in materialization.metadata.items()}


def _tag(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str | None:
    found = instance.get_run_by_id(result.run_id)
    return None if found is None else found.tags.get("agent_pipelines/verdict")


def _defs(digest: Any, *agents: Agent) -> dg.Definitions:
    return definitions_of(digest, agents=agents)


def test_a_fallback_completes_the_run_and_is_told(instance: dg.DagsterInstance) -> None:
    digest = task(fallback=[{"agent": "spare"}], retry=ONCE)
    result = run(_defs(digest, fake(**BROKEN), fake("spare", replies=["from b"])), instance)
    assert result.success
    found = _shown(result)
    assert (found["output"], found["agent"], found["fallback_from"]) == ("from b", "spare", "writer")


def test_a_stale_result_is_a_materialization_that_says_so(instance: dg.DagsterInstance) -> None:
    digest = task(degrade=[{"to": "cached", "max_age": "1d"}], retry=ONCE)
    good = run(_defs(digest, fake(replies=["fine"])), instance)
    stale = run(_defs(digest, fake(**BROKEN)), instance)
    assert (good.success, stale.success) == (True, True)
    assert (_shown(stale)["output"], _shown(stale)["degraded"]) == ("fine", "stale")
    assert (_tag(instance, good), _tag(instance, stale)) == (None, "degraded")
    [passed], [warned] = good.get_asset_check_evaluations(), stale.get_asset_check_evaluations()
    assert (passed.check_name, passed.passed) == ("not_degraded", True)
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (warned.description or "").startswith("stale, the result of ")


def test_a_question_to_people_is_a_failed_run(instance: dg.DagsterInstance) -> None:
    digest = task(degrade=[{"to": "human"}], retry=ONCE)
    assert not run(_defs(digest, fake(**BROKEN)), instance).success
    [execution] = executions(instance)
    hub = hub_of(instance)
    with hub.database.reading() as connection:
        [asked] = hub.human_tasks.of_execution(connection, execution.id)
    assert (execution.degraded, execution.reason) == ("human", f"human task {asked.id} asks for the result")


def test_a_used_result_is_a_materialization_that_cost_nothing(instance: dg.DagsterInstance) -> None:
    agent = fake(replies=["fine"], usage={"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25})
    defs = _defs(task(cache={"ttl": "1h"}), agent)
    first, second = run(defs, instance), run(defs, instance)
    assert (_shown(first)["total_tokens"], _shown(second)["total_tokens"], _shown(second)["cost_usd"]) == (15, 0, 0)
    assert _shown(second)["cached_from"] == _shown(first)["execution_id"]


def test_a_step_is_given_the_time_that_what_follows_leaves(instance: dg.DagsterInstance) -> None:
    digest = task()
    report = task("report", dependencies=["digest"], service_level={"finish_within": "10m"}, timeout={"attempt": "2m"})
    digest.followed_by(followers_of(digest, [digest, report]))
    assert run(definitions_of(digest, report, agents=(fake(replies=["fine"]),)), instance).success
    [execution] = executions(instance)
    # It never ran, so that it is expected to take as long as it may.
    assert execution.invocation.deadline_at == execution.due_at + 480 * 1_000_000
    assert execution.status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fallback: [{agent: writter}]", r"field `fallback\[0\].agent`: there is no agent `writter`. Did you mean `writer`\?"),
        ("degrade: [{to: task, task: report}]", r"field `degrade\[0\].task`: there is no task `default/report`"),
        ("degrade: [{to: cached}]", "`max_age` goes with `to: cached`"),
        ("cache: {ttl: 1d, key: '{{ nothing }}'}", "field `cache.key`"),
        ("cache: {ttl: 1d}\nsession: {mode: task}", "with session mode `task` every call is a new turn"),
    ],
)
def test_what_leads_nowhere_is_refused_at_load(project: Project, line: str, words: str) -> None:
    project.agent().task("digest", line)
    with pytest.raises(DefinitionError, match=words):
        project.load()
