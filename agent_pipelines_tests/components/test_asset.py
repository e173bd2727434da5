from typing import Any

import dagster as dg
import pytest

from agent_pipelines import CheckResult, Invocation
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.launch import Launch
from agent_pipelines_tests.components.running import definitions_of, executions, fake, hub_of, run, task

KEY = dg.AssetKey(["default", "digest"])
HERE = __name__
NIGHTLY = Launch(
    task="default/digest",
    trigger="nightly",
    origin=Origin.SCHEDULE,
    occurrence="1700000000000000",
    due_at=1_700_000_000_000_000,
    logical_at=1_600_000_000_000_000,
)


def not_empty(output: Any, invocation: Invocation) -> bool:
    return bool(output)


def never(output: Any, invocation: Invocation) -> str:
    return "it never passes"


def scored(output: Any, invocation: Invocation) -> CheckResult:
    return CheckResult(name="x", passed=False, score=0.25, message="a quarter")


def nothing_to_do(invocation: Invocation) -> str:
    return "no new commits"


def _metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [materialization] = result.asset_materializations_for_node("default__digest__execute")
    return {name: value.value for name, value in materialization.metadata.items()}


def test_a_success_is_a_materialization_with_numbers(instance: dg.DagsterInstance) -> None:
    agent = fake(replies=["All is well"], usage={"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25})
    result = run(definitions_of(task(), agents=(agent,)), instance)
    assert result.success
    found = _metadata(result)
    [execution] = executions(instance)
    assert found["output"] == "All is well"
    assert (found["input_tokens"], found["output_tokens"], found["total_tokens"], found["cost_usd"]) == (10, 5, 15, 0.25)
    assert found["execution_id"] == execution.id
    assert found["prompt_version"] == execution.prompt_version
    assert found["duration_seconds"] >= 0
    assert found["attempts"] == 1
    assert execution.run_id == result.run_id
    assert (execution.job, execution.step) == ("default__digest", "default__digest__execute")
    assert execution.origin is Origin.ON_DEMAND
    assert execution.occurrence == result.run_id
    assert "agent_pipelines/verdict" not in (instance.get_run_by_id(result.run_id) or result.dagster_run).tags


def test_a_json_answer_is_json_metadata_and_passes_its_schema(instance: dg.DagsterInstance) -> None:
    defs = definitions_of(task(output={"schema": {"type": "object"}}), agents=(fake(replies=[{"total": 3}]),))
    result = run(defs, instance)
    assert _metadata(result)["output"] == {"total": 3}
    [evaluation] = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("output_schema", True)


def test_the_tick_of_a_launch_is_executed(instance: dg.DagsterInstance) -> None:
    spec = task(
        triggers=[
            {"kind": "cron", "cron": "0 6 * * *", "name": "nightly", "variables": {"day": "{{ logical_time }}", "who": "x"}}
        ],
        prompt="{{ day }} for {{ who }}",
    )
    launch = NIGHTLY.model_copy(update={"variables": {"who": "{{ not rendered }}"}})
    result = run(definitions_of(spec, agents=(fake(),)), instance, launch=launch)
    assert result.success
    assert _metadata(result)["output"] == "2020-09-13T12:26:40Z for {{ not rendered }}"
    [execution] = executions(instance)
    assert (execution.trigger, execution.origin, execution.occurrence) == ("nightly", Origin.SCHEDULE, NIGHTLY.occurrence)
    assert (execution.due_at, execution.logical_at) == (NIGHTLY.due_at, NIGHTLY.logical_at)
    hub = hub_of(instance)
    with hub.database.reading() as connection:
        tick = hub.ticks.find(connection, spec.key, "nightly", NIGHTLY.occurrence)
    assert tick is not None
    assert (tick.verdict, tick.execution_id, tick.run_id) == (Verdict.RAN, execution.id, result.run_id)


def test_the_launch_of_one_task_is_not_that_of_another_in_the_run(instance: dg.DagsterInstance) -> None:
    both = definitions_of(task(), task("report", dependencies=["digest"]), agents=(fake(),))
    job = both.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, tags=NIGHTLY.tags())
    assert [execution.trigger for execution in executions(instance)] == ["nightly"]
    [report] = executions(instance, "report")
    assert (report.trigger, report.occurrence) == ("on_demand", result.run_id)


def test_the_event_of_a_launch_reaches_prompt_and_variables(instance: dg.DagsterInstance) -> None:
    hub = hub_of(instance)
    with hub.database.transaction() as connection:
        event_id, _ = hub.inbox.put(connection, "push", {"commit": "abc", "files": ["a", "b"]})
    trigger = {"kind": "event", "event": "push", "variables": {"files": "{{ event.files }}"}}
    spec = task(triggers=[trigger], prompt="{{ event.commit }}: {{ files | join(' ') }}")
    launch = NIGHTLY.model_copy(update={"trigger": "event", "origin": Origin.EVENT, "occurrence": event_id, "event_id": event_id})
    assert _metadata(run(definitions_of(spec, agents=(fake(),)), instance, launch=launch))["output"] == "abc: a b"


@pytest.mark.parametrize("event_id", ["nowhere", None])
def test_a_request_that_cannot_be_read_fails_in_words(instance: dg.DagsterInstance, event_id: str | None) -> None:
    spec = task(triggers=[{"kind": "event", "event": "push", "variables": {"commit": "{{ event.commit }}"}}])
    launch = NIGHTLY.model_copy(update={"trigger": "event", "event_id": event_id})
    result = run(definitions_of(spec, agents=(fake(),)), instance, launch=launch)
    assert not result.success
    assert "context: " in str(result.all_events[-1].event_specific_data) or "context: " in str(_failure(result))
    assert executions(instance) == []


def test_a_failure_is_a_failure_with_its_class(instance: dg.DagsterInstance) -> None:
    spec = task(retry={"max_attempts": 1})
    result = run(definitions_of(spec, agents=(fake(fail_times=1, error_class="quota"),)), instance)
    assert not result.success
    failure = _failure(result)
    assert "quota: scripted failure" in failure.error.message  # pyright: ignore
    metadata = failure.user_failure_data.metadata  # pyright: ignore
    assert metadata["error_class"].value == "quota"
    assert metadata["attempts"].value == 1
    [execution] = executions(instance)
    assert execution.error_class is ErrorClass.QUOTA
    assert result.asset_materializations_for_node("default__digest__execute") == []


def test_a_failed_blocking_check_leaves_no_materialization(instance: dg.DagsterInstance) -> None:
    checks = [{"name": "full", "python": f"{HERE}:not_empty"}, {"name": "hard", "python": f"{HERE}:never"}]
    spec = task(checks=checks, retry={"max_attempts": 1}, output={"schema": {"type": "string"}})
    after = task("after", dependencies=["digest"])
    defs = definitions_of(spec, after, agents=(fake(replies=['"x"']),))
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert result.asset_materializations_for_node("default__digest__execute") == []
    assert executions(instance, "after") == []
    found = {
        evaluation.check_name: (evaluation.passed, evaluation.description) for evaluation in result.get_asset_check_evaluations()
    }
    assert found == {"output_schema": (True, None), "full": (True, None), "hard": (False, "it never passes")}


def test_an_answer_against_the_schema_is_a_failed_check(instance: dg.DagsterInstance) -> None:
    spec = task(output={"schema": {"type": "object"}}, retry={"max_attempts": 1})
    result = run(definitions_of(spec, agents=(fake(replies=["[]"]),)), instance)
    assert not result.success
    [evaluation] = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("output_schema", False)
    assert "violates the schema" in str(evaluation.description)


def test_a_failed_soft_check_warns(instance: dg.DagsterInstance) -> None:
    spec = task(checks=[{"name": "soft", "python": f"{HERE}:scored", "blocking": False}])
    result = run(definitions_of(spec, agents=(fake(),)), instance)
    assert result.success
    [evaluation] = result.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluation.metadata["score"].value == 0.25
    assert len(result.asset_materializations_for_node("default__digest__execute")) == 1


def test_a_skipped_execution_ends_without_a_materialization_and_says_so(instance: dg.DagsterInstance) -> None:
    spec = task(gate=f"{HERE}:nothing_to_do", checks=[{"name": "full", "python": f"{HERE}:not_empty"}])
    result = run(definitions_of(spec, agents=(fake(),)), instance)
    assert result.success
    assert result.asset_materializations_for_node("default__digest__execute") == []
    assert result.get_asset_check_evaluations() == []
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert stored.tags["agent_pipelines/verdict"] == "skipped"
    [execution] = executions(instance)
    assert (execution.status, execution.reason) == (Status.SKIPPED, "no new commits")


def test_a_second_run_of_a_tick_is_deduplicated(instance: dg.DagsterInstance) -> None:
    defs = definitions_of(task(), agents=(fake(),))
    assert run(defs, instance, launch=NIGHTLY).success
    second = run(defs, instance, launch=NIGHTLY)
    assert second.success
    assert second.asset_materializations_for_node("default__digest__execute") == []
    stored = instance.get_run_by_id(second.run_id)
    assert stored is not None
    assert stored.tags["agent_pipelines/verdict"] == "deduplicated"
    assert len(executions(instance)) == 1


def test_a_copied_verdict_is_written_over(instance: dg.DagsterInstance) -> None:
    result = run(definitions_of(task(), agents=(fake(),)), instance, **{"agent_pipelines/verdict": "skipped"})
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert stored.tags["agent_pipelines/verdict"] == "ran"


def test_a_long_answer_is_cut_in_the_metadata_only(instance: dg.DagsterInstance) -> None:
    result = run(definitions_of(task(), agents=(fake(replies=["x" * 20_000]),)), instance)
    assert _metadata(result)["output"].endswith("… 10,000 more characters in the record")
    [execution] = executions(instance)
    assert execution.text == "x" * 20_000


def test_the_same_answer_is_the_same_data_version(instance: dg.DagsterInstance) -> None:
    defs = definitions_of(task(), agents=(fake(replies=["same"]),))
    versions = []
    for _ in range(2):
        [materialization] = run(defs, instance).asset_materializations_for_node("default__digest__execute")
        versions.append((materialization.tags or {})["dagster/data_version"])
    assert versions[0] == versions[1]


def test_what_is_declared_is_what_dagster_shows() -> None:
    spec = task(
        application="finance",
        priority=5,
        pool="model",
        owners=["team:data"],
        tags={"tier": "gold"},
        dependencies=["ledger", "sales/orders"],
        checks=[{"name": "soft", "python": f"{HERE}:never", "blocking": False}],
        output={"schema": {"type": "object"}},
    )
    defs = definitions_of(spec, agents=(fake(),))
    [asset] = defs.assets or ()
    assert isinstance(asset, dg.AssetsDefinition)
    [shown] = asset.specs
    assert shown.key == dg.AssetKey(["finance", "digest"])
    assert (shown.description, shown.group_name, list(shown.owners)) == ("Sum up", "finance", ["team:data"])
    assert {dependency.asset_key.to_user_string() for dependency in shown.deps} == {"finance/ledger", "sales/orders"}
    assert shown.tags["tier"] == "gold"
    assert shown.kinds == {"agent"}
    assert asset.op.pool == "model"
    assert {check.name: check.blocking for check in asset.check_specs} == {"output_schema": True, "soft": False}
    job = defs.resolve_job_def("finance__digest")
    assert job.run_tags["dagster/priority"] == "5"
    assert job.run_tags["tier"] == "gold"
    assert job.executor_def is dg.in_process_executor


def _failure(result: dg.ExecuteInProcessResult) -> Any:
    [failed] = [event for event in result.all_events if event.is_step_failure]
    return failed.step_failure_data
